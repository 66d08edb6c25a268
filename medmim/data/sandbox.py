"""Child processes with limits, in which untrusted files are parsed: a bad file costs itself only.

A worker is a fresh interpreter with limits on memory, processor time and wall time. Tasks and answers travel
as JSON, so nothing from a worker is unpickled. A worker that dies, hangs or runs out of memory is replaced,
and the task that it had is answered with the reason.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from medmim.errors import DataError, RunError

_START_S = 120.0
_MAX_ANSWER_BYTES = 1 << 26
_BOOT = "import sys; from medmim.data.sandbox import serve; serve(*map(int, sys.argv[1:]))"

Task = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What one task may use: address space in bytes, processor time and wall time in seconds."""

    memory_bytes: int = 4 << 30
    cpu_s: int = 30
    wall_s: float = 60.0


@dataclass(frozen=True)
class Answer:
    """What a task gave: a value, or the reason why there is none."""

    value: Any = None
    reason: str | None = None


def run_each(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    *,
    workers: int,
    limits: Limits | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Call `function(**task)` for each task in limited child processes; answers keep the order of the tasks.

    Args:
        function: a function of a module; it takes and returns what JSON can hold.
        tasks: keyword arguments, one mapping a call.
        workers: number of child processes at one time.
        limits: bounds for each call.
        on_done: told the number of finished tasks after each one.

    Raises:
        RunError: if child processes cannot be started at all.
    """
    pool = _Pool(f"{function.__module__}:{function.__qualname__}", tasks, limits or Limits(), on_done)
    with contextlib.closing(pool):
        return pool.run(max(1, min(workers, len(tasks))))


class _Worker:
    """One child process, the task that it has, and until when."""

    def __init__(self, limits: Limits) -> None:
        self.connection, theirs = Pipe()
        with contextlib.closing(theirs):
            arguments = [str(theirs.fileno()), str(limits.memory_bytes), str(limits.cpu_s)]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # parsers quote values of the scan in their complaints
                start_new_session=True,
                env=_environment(),
            )
        self.task: int | None = None
        self.ready = False
        self.deadline = time.monotonic() + _START_S

    def stop(self) -> int:
        """End the process and everything that it started; return its exit status (negative: the signal)."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # an idle or dying one ends by itself
            self.process.wait(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


class _Pool:
    """The tasks that are waiting, those that workers have, and the answers."""

    def __init__(
        self, call: str, tasks: Sequence[Task], limits: Limits, on_done: Callable[[int], None] | None
    ) -> None:
        self.call = call
        self.tasks = tasks
        self.limits = limits
        self.on_done = on_done
        self.waiting = deque(range(len(tasks)))
        self.tried: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self.workers: list[_Worker] = []

    def run(self, count: int) -> list[Answer]:
        while len(self.answers) < len(self.tasks):
            self._hand_out(count)
            nearest = min(worker.deadline for worker in self.workers)
            told = wait([worker.connection for worker in self.workers], max(0.0, nearest - time.monotonic()))
            for worker in [worker for worker in self.workers if worker.connection in told]:
                self._listen(worker)
            for worker in [worker for worker in self.workers if worker.deadline < time.monotonic()]:
                self._lose(worker, "timeout")
        return [self.answers[index] for index in range(len(self.tasks))]

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()

    def _hand_out(self, count: int) -> None:
        """Give waiting tasks to idle workers, and start workers where more of them can be used."""
        for worker in list(self.workers):
            if self.waiting and worker.ready and worker.task is None:
                self._give(worker, self.waiting.popleft())
        busy = sum(worker.task is not None for worker in self.workers)
        while len(self.workers) < min(count, busy + len(self.waiting)):
            self.workers.append(_Worker(self.limits))

    def _listen(self, worker: _Worker) -> None:
        try:
            message = json.loads(worker.connection.recv_bytes(_MAX_ANSWER_BYTES))
        except (EOFError, OSError, ValueError):
            self._lose(worker, "parser_crash")
            return
        if worker.task is not None:
            self._answer(worker.task, Answer(message.get("value"), message.get("reason")))
        worker.ready, worker.task, worker.deadline = True, None, float("inf")
        if message.get("ending"):
            self.workers.remove(worker)
            worker.stop()

    def _give(self, worker: _Worker, index: int) -> None:
        worker.task, worker.deadline = index, time.monotonic() + self.limits.wall_s
        request = json.dumps({"call": self.call, "arguments": self.tasks[index]})
        try:
            worker.connection.send_bytes(request.encode())
        except OSError:  # it died after its last answer: the task is not to blame
            worker.task = None
            self.waiting.appendleft(index)
            self._lose(worker, "parser_crash")

    def _lose(self, worker: _Worker, reason: str) -> None:
        self.workers.remove(worker)
        task = worker.task
        status = worker.stop()
        if not worker.ready:
            raise RunError(
                f"a worker process could not start (status {status}): expected `python -c 'import medmim'` "
                "to work within the memory limit; check the installation and `ulimit -v`"
            )
        if status == -signal.SIGXCPU:
            reason = "timeout"
        if task is not None and reason == "parser_crash" and task not in self.tried:
            self.tried.add(task)  # the file before may have done the harm: try once more, in another process
            self.waiting.appendleft(task)
        elif task is not None:
            self._answer(task, Answer(reason=reason))

    def _answer(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        if self.on_done:
            self.on_done(len(self.answers))


def serve(descriptor: int, memory_bytes: int, cpu_s: int) -> None:
    """Be a worker: answer tasks from a pipe until it closes. A worker that may be damaged ends itself."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    connection = Connection(descriptor)
    connection.send_bytes(b"{}")
    for request in _requests(connection):
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + cpu_s, resource.RLIM_INFINITY))
        answer = attempt(request["call"], request["arguments"])
        connection.send_bytes(json.dumps(answer).encode())
        if answer.get("ending"):
            return


def attempt(call: str, arguments: Task) -> dict[str, Any]:
    """Call `module:function`; return what to answer, with `ending` if this process is not fit for more."""
    module, _, name = call.partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(**arguments)}
    except DataError as error:
        return {"reason": error.reason}
    except MemoryError:
        return {"reason": "memory", "ending": True}
    except Exception:
        return {"reason": "parser_error"}
    except BaseException:  # Rust codecs panic outside of Exception
        return {"reason": "parser_crash", "ending": True}


def _requests(connection: Connection) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield json.loads(connection.recv_bytes())
        except EOFError:
            return


def _environment() -> dict[str, str]:
    """The parent's, with its import path; one thread for BLAS, whose buffers would eat the address space."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
