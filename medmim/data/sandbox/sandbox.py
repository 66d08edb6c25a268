"""Child processes with limits, in which untrusted files are parsed: a malformed file affects no other.

Workers have limits on memory, CPU time and wall time. Tasks and answers travel as JSON, so nothing from a
worker is unpickled. A worker that crashes, hangs or runs out of memory is replaced, and its task is answered
with the reason.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from medmim.data.sandbox.fork_server import START_S, ForkServer, no_start
from medmim.data.sandbox.sandbox_worker import CANNOT_WRITE, FILE_LIMIT, Task, as_json
from medmim.data.sandbox.spawned_workers import SpawnedWorkers
from medmim.files import WriteError
from medmim.operating_system import can_fork_workers, signals, usable_cores

Workers = ForkServer | SpawnedWorkers

_NEVER = float("inf")
_PARSERS = ("medmim.data.ingest.scan", "medmim.data.dicom.convert_uncompressed")
_STOPPING = {CANNOT_WRITE: errno.ENOSPC, FILE_LIMIT: errno.EFBIG}  # every further task would fail too
_MAX_ANSWER_BYTES = 1 << 26
_AHEAD, _AHEAD_BYTES = 8, 4096  # tasks queued in a worker's pipe: small, so that the pipe never fills


@dataclass(frozen=True)
class Limits:
    """Limits of one task: address space and file size in bytes, CPU time and wall time in s."""

    memory_bytes: int = 4 << 30
    file_bytes: int = 8 << 30
    cpu_s: int = 30
    wall_s: float = 60.0


@dataclass(frozen=True)
class Answer:
    """Result of a task: a value, or the reason why there is none."""

    value: Any = None
    reason: str | None = None


class _Worker:
    """One child process with its queue of tasks and the deadline of the first one."""

    def __init__(self, server: Workers) -> None:
        self._server = server
        self.connection = server.start()
        self.tasks: deque[int] = deque()
        self.pid: int | None = None
        self.deadline = time.monotonic() + START_S

    def stop(self) -> int | None:
        """Stop the process and all its children; return its exit status (negative: the signal)."""
        self.connection.close()
        return None if self.pid is None else self._server.stop(self.pid)


class Sandbox:
    """Child processes that start on demand, are kept between calls, and stop at the end of the block.

    Args:
        workers: maximum number of child processes.
        modules: modules that tasks need; imported in the background.
        server: starts the workers; by default a new one with the modules, forking where the system can.
    """

    def __init__(self, workers: int, modules: Sequence[str] = (), server: Workers | None = None) -> None:
        self._count = max(1, workers)
        self._server = server or (ForkServer(modules) if can_fork_workers() else SpawnedWorkers(modules))
        self._workers: list[_Worker] = []
        self._job = _Job("", (), Limits())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()
        self._server.close()

    def run_each(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        limits: Limits | None = None,
        on_done: Callable[[int], None] | None = None,
        keep: Callable[[Any], Any] | None = None,
    ) -> list[Answer]:
        """Call `function(**task)` for each task; answers keep the order of the tasks.

        Args:
            function: a module-level function; arguments and result are JSON values or pydantic models.
            on_done: called with the number of finished tasks after each one.
            keep: converts each value when it arrives, usually to something smaller than the JSON form.

        Raises:
            RunError: if child processes cannot be started.
            WriteError: if one of them cannot write: the disk is full, and all further tasks would fail.
        """
        call = f"{function.__module__}:{function.__qualname__}"
        self._job = _Job(call, tasks, limits or Limits(), on_done, keep)
        try:
            while len(self._job.answers) < len(tasks):
                self._step()
        except BaseException:
            for worker in self._workers:  # their answers belong to tasks of this call
                worker.stop()
            self._workers.clear()
            raise
        return [self._job.answers[index] for index in range(len(tasks))]

    def _step(self) -> None:
        """Assign tasks, and wait for the next answer or the next deadline."""
        self._assign_tasks()
        nearest = min(worker.deadline for worker in self._workers)
        connections = [worker.connection for worker in self._workers]
        ready = wait(connections, None if nearest == _NEVER else max(0.0, nearest - time.monotonic()))
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            self._receive(worker)
        for worker in [worker for worker in self._workers if worker.deadline < time.monotonic()]:
            self._lose(worker, "timeout")

    def _assign_tasks(self) -> None:
        """Send waiting tasks to workers with short queues, and start workers if more can be used."""
        waiting = self._job.waiting
        ahead = min(_AHEAD, 1 + len(waiting) // (_AHEAD * self._count))
        for worker in list(self._workers):
            while waiting and worker.pid is not None and len(worker.tasks) < ahead:
                if not self._send(worker, waiting.popleft()):
                    break
        busy = sum(bool(worker.tasks) for worker in self._workers)
        while len(self._workers) < min(self._count, busy + len(waiting)):
            self._workers.append(_Worker(self._server))

    def _send(self, worker: _Worker, index: int) -> bool:
        """Send a task; return False, and leave it waiting, if that is not possible."""
        request = self._job.request(index)
        sent = not worker.tasks or len(request) < _AHEAD_BYTES
        if sent:
            try:
                worker.connection.send_bytes(request)
            except OSError:  # the worker died; its last answers and then its end can still be received
                sent = False
        if not sent:
            self._job.waiting.appendleft(index)
            return False
        worker.tasks.append(index)
        if len(worker.tasks) == 1:
            worker.deadline = time.monotonic() + self._job.limits.wall_s
        return True

    def _receive(self, worker: _Worker) -> None:
        try:
            message = json.loads(worker.connection.recv_bytes(_MAX_ANSWER_BYTES))
        except (EOFError, OSError, ValueError):
            self._lose(worker, "parser_crash")
            return
        if worker.pid is None:
            worker.pid = message["pid"]
        else:
            self._job.answer(worker.tasks.popleft(), Answer(message.get("value"), message.get("reason")))
        worker.deadline = time.monotonic() + self._job.limits.wall_s if worker.tasks else _NEVER
        if message.get("ending"):
            self._remove(worker)

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Answer the task of a dead or slow worker with the reason."""
        blamed = worker.tasks.popleft() if worker.tasks else None
        status = self._remove(worker)
        if status is None:
            raise no_start("no answer")
        if blamed is not None:
            self._job.lost(blamed, "timeout" if -status in signals("SIGXCPU") else reason)

    def _remove(self, worker: _Worker) -> int | None:
        """Stop a worker, put its other tasks back into the queue, and return its exit status."""
        self._workers.remove(worker)
        self._job.waiting.extendleft(reversed(worker.tasks))
        return worker.stop()


def for_scans(workers: int | None = None) -> Sandbox:
    """Return a sandbox with the parsers of most scans; by default with one worker per CPU core."""
    return Sandbox(workers or usable_cores(), _PARSERS)


@dataclass
class _Job:
    """Tasks of one call: the waiting ones, and the answers so far."""

    call: str
    tasks: Sequence[Task]
    limits: Limits
    on_done: Callable[[int], None] | None = None
    keep: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.tasks)))
        self.crashed: set[int] = set()
        self.answers: dict[int, Answer] = {}

    def request(self, index: int) -> bytes:
        """Return the message that a worker receives for a task."""
        limits = self.limits
        return json.dumps(
            {
                "call": self.call,
                "arguments": self.tasks[index],
                "memory_bytes": limits.memory_bytes,
                "file_bytes": limits.file_bytes,
                "cpu_s": limits.cpu_s,
            },
            default=as_json,
        ).encode()

    def lost(self, index: int, reason: str) -> None:
        """Answer a task whose worker ended; a crash is retried once: another task may have caused it."""
        if reason == "parser_crash" and index not in self.crashed:
            self.crashed.add(index)
            self.waiting.appendleft(index)
        else:
            self.answer(index, Answer(reason=reason))

    def answer(self, index: int, answer: Answer) -> None:
        if code := _STOPPING.get(answer.reason or ""):
            raise WriteError(code, os.strerror(code))
        if self.keep and answer.value is not None:
            answer = Answer(self.keep(answer.value), answer.reason)
        self.answers[index] = answer
        if self.on_done:
            self.on_done(len(self.answers))
