"""Child processes with limits, in which untrusted files are parsed: a bad file costs itself only.

A worker has limits on memory, processor time and wall time. Tasks and answers travel as JSON, so nothing from
a worker is unpickled. A worker that dies, hangs or runs out of memory is replaced, and the task that it had
is answered with the reason.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from medmim.data.sandbox.fork_server import START_S, ForkServer, no_start
from medmim.data.sandbox.sandbox_worker import CANNOT_WRITE, Task, as_json
from medmim.files import WriteError

_NEVER = float("inf")
_PARSERS = ("medmim.data.ingest.scan", "medmim.data.dicom.uncompressed")
_MAX_ANSWER_BYTES = 1 << 26
_AHEAD, _AHEAD_BYTES = 8, 4096  # tasks that wait in a worker's pipe; small ones, so that the pipe never fills


@dataclass(frozen=True)
class Limits:
    """What one task may use: address space and size of a file in bytes, processor and wall time in s."""

    memory_bytes: int = 4 << 30
    file_bytes: int = 8 << 30
    cpu_s: int = 30
    wall_s: float = 60.0


@dataclass(frozen=True)
class Answer:
    """What a task gave: a value, or the reason why there is none."""

    value: Any = None
    reason: str | None = None


class _Worker:
    """One child process, the tasks that it has, the first of which it works on, and until when."""

    def __init__(self, nursery: ForkServer) -> None:
        self._nursery = nursery
        self.connection = nursery.start()
        self.tasks: deque[int] = deque()
        self.pid: int | None = None
        self.deadline = time.monotonic() + START_S

    def stop(self) -> int | None:
        """End the process and everything that it started; return its exit status (negative: the signal)."""
        self.connection.close()
        return None if self.pid is None else self._nursery.stop(self.pid)


class Sandbox:
    """Child processes that are started when they are needed, kept between calls, and ended with the block.

    Args:
        workers: number of child processes at one time.
        modules: what tasks will need; imported in the background, from now on.
    """

    def __init__(self, workers: int, modules: Sequence[str] = ()) -> None:
        self._count = max(1, workers)
        self._nursery = ForkServer(modules)
        self._workers: list[_Worker] = []
        self._job = _Job("", (), Limits())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()
        self._nursery.close()

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
            function: a function of a module; it takes and returns what JSON can hold.
            tasks: keyword arguments, one mapping a call.
            limits: bounds for each call.
            on_done: told the number of finished tasks after each one.
            keep: turns a value into what is kept of it, as soon as it comes; smaller than the JSON form.

        Raises:
            RunError: if child processes cannot be started at all.
            WriteError: if one of them cannot write: the disk is full, and each further task would fail.
        """
        call = f"{function.__module__}:{function.__qualname__}"
        self._job = _Job(call, tasks, limits or Limits(), on_done, keep)
        try:
            while len(self._job.answers) < len(tasks):
                self._go_on()
        except BaseException:
            for worker in self._workers:  # their answers belong to tasks that nobody waits for any more
                worker.stop()
            self._workers.clear()
            raise
        return [self._job.answers[index] for index in range(len(tasks))]

    def _go_on(self) -> None:
        """Hand out tasks, and wait for the next answer or for a worker that is out of time."""
        self._hand_out()
        nearest = min(worker.deadline for worker in self._workers)
        connections = [worker.connection for worker in self._workers]
        told = wait(connections, None if nearest == _NEVER else max(0.0, nearest - time.monotonic()))
        for worker in [worker for worker in self._workers if worker.connection in told]:
            self._listen(worker)
        for worker in [worker for worker in self._workers if worker.deadline < time.monotonic()]:
            self._lose(worker, "timeout")

    def _hand_out(self) -> None:
        """Give waiting tasks to workers that have few, and start workers where more of them can be used."""
        waiting = self._job.waiting
        ahead = min(_AHEAD, 1 + len(waiting) // (_AHEAD * self._count))
        for worker in list(self._workers):
            while waiting and worker.pid is not None and len(worker.tasks) < ahead:
                if not self._give(worker, waiting.popleft()):
                    break
        busy = sum(bool(worker.tasks) for worker in self._workers)
        while len(self._workers) < min(self._count, busy + len(waiting)):
            self._workers.append(_Worker(self._nursery))

    def _give(self, worker: _Worker, index: int) -> bool:
        """Send a task; say whether that was possible, and leave it waiting otherwise."""
        request = self._job.request(index)
        try:
            if fits := not worker.tasks or len(request) < _AHEAD_BYTES:
                worker.connection.send_bytes(request)
        except OSError:  # it died after its last answer: this task is not to blame
            self._job.waiting.appendleft(index)
            self._lose(worker, "parser_crash")
            return False
        if not fits:
            self._job.waiting.appendleft(index)
            return False
        worker.tasks.append(index)
        if len(worker.tasks) == 1:
            worker.deadline = time.monotonic() + self._job.limits.wall_s
        return True

    def _listen(self, worker: _Worker) -> None:
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
            self._part(worker)

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Answer the task that a dead or slow worker had."""
        blamed = worker.tasks.popleft() if worker.tasks else None
        status = self._part(worker)
        if status is None:
            raise no_start("no answer")
        if blamed is not None:
            self._job.lost(blamed, "timeout" if status == -signal.SIGXCPU else reason)

    def _part(self, worker: _Worker) -> int | None:
        """End a worker; tasks that it has not begun wait for another. Return its exit status."""
        self._workers.remove(worker)
        self._job.waiting.extendleft(reversed(worker.tasks))
        return worker.stop()


def for_scans(workers: int | None = None) -> Sandbox:
    """Return a sandbox whose workers have what most scans need; one a processor without a number of them."""
    return Sandbox(workers or len(os.sched_getaffinity(0)), _PARSERS)


@dataclass
class _Job:
    """Tasks of one call: those that are waiting, and the answers so far."""

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
        """Return what a worker is sent for a task."""
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
        """Answer a task that ended its worker; crashes are tried again: another file may be to blame."""
        if reason == "parser_crash" and index not in self.crashed:
            self.crashed.add(index)
            self.waiting.appendleft(index)
        else:
            self.answer(index, Answer(reason=reason))

    def answer(self, index: int, answer: Answer) -> None:
        if answer.reason == CANNOT_WRITE:
            raise WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.keep and answer.value is not None:
            answer = Answer(self.keep(answer.value), answer.reason)
        self.answers[index] = answer
        if self.on_done:
            self.on_done(len(self.answers))
