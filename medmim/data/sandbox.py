"""Child processes with limits, in which untrusted files are parsed: a bad file costs itself only.

A worker is a fresh interpreter with limits on memory, processor time and wall time. Tasks and answers travel
as JSON, so nothing from a worker is unpickled. A worker that dies, hangs or runs out of memory is replaced,
and the task that it had is answered with the reason.
"""

from __future__ import annotations

import contextlib
import errno
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
from medmim.files import WriteError

_START_S = 120.0
_NEVER = float("inf")
CANNOT_WRITE = "cannot_write"
_MAX_ANSWER_BYTES = 1 << 26
_BOOT = "import sys; from medmim.data.sandbox import serve; serve(int(sys.argv[1]))"

Task = Mapping[str, Any]


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
    """One child process, the task that it has, and until when."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        with contextlib.closing(theirs):
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno())],
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


class Sandbox:
    """Child processes that are started when they are needed, kept between calls, and ended with the block.

    Args:
        workers: number of child processes at one time.
    """

    def __init__(self, workers: int) -> None:
        self._count = max(1, workers)
        self._workers: list[_Worker] = []
        self._job = _Job("", (), Limits())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()

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
            self._stop_all()  # their answers belong to tasks that nobody waits for any more
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

    def _stop_all(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _hand_out(self) -> None:
        """Give waiting tasks to idle workers, and start workers where more of them can be used."""
        waiting = self._job.waiting
        for worker in list(self._workers):
            if waiting and worker.ready and worker.task is None:
                self._give(worker, waiting.popleft())
        busy = sum(worker.task is not None for worker in self._workers)
        while len(self._workers) < min(self._count, busy + len(waiting)):
            self._workers.append(_Worker())

    def _listen(self, worker: _Worker) -> None:
        try:
            message = json.loads(worker.connection.recv_bytes(_MAX_ANSWER_BYTES))
        except (EOFError, OSError, ValueError):
            self._lose(worker, "parser_crash")
            return
        if worker.task is not None:
            self._job.answer(worker.task, Answer(message.get("value"), message.get("reason")))
        worker.ready, worker.task, worker.deadline = True, None, _NEVER
        if message.get("ending"):
            self._workers.remove(worker)
            worker.stop()

    def _give(self, worker: _Worker, index: int) -> None:
        limits = self._job.limits
        request = {
            "call": self._job.call,
            "arguments": self._job.tasks[index],
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
            "cpu_s": limits.cpu_s,
        }
        try:
            worker.connection.send_bytes(json.dumps(request).encode())
            worker.task, worker.deadline = index, time.monotonic() + limits.wall_s
        except OSError:  # it died after its last answer: this task is not to blame
            self._job.waiting.appendleft(index)
            self._lose(worker, "parser_crash")

    def _lose(self, worker: _Worker, reason: str) -> None:
        self._workers.remove(worker)
        status = worker.stop()
        if not worker.ready:
            raise RunError(
                f"a worker process could not start (status {status}): expected `python -c 'import medmim'` "
                "to work; check the installation and `ulimit -a`"
            )
        if worker.task is not None:
            self._job.lost(worker.task, "timeout" if status == -signal.SIGXCPU else reason)


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


def serve(descriptor: int) -> None:
    """Be a worker: answer tasks from a pipe until it closes. A worker that may be damaged ends itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    connection = Connection(descriptor)
    connection.send_bytes(b"{}")
    for request in _requests(connection):
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + request["cpu_s"])
        _limit(resource.RLIMIT_AS, request["memory_bytes"])
        _limit(resource.RLIMIT_FSIZE, request["file_bytes"])
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
    except OSError as error:
        return {"reason": _reason_of(error)}
    except Exception:
        return {"reason": "parser_error"}
    except BaseException:  # Rust codecs panic outside of Exception
        return {"reason": "parser_crash", "ending": True}


def _reason_of(error: OSError) -> str:
    """Tell a disk that cannot be written to, which is no file's fault, from a file that is too large."""
    if error.errno == errno.EFBIG:
        return "too_large"
    full = isinstance(error, WriteError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return CANNOT_WRITE if full else "parser_error"


def _requests(connection: Connection) -> Iterator[dict[str, Any]]:
    while True:
        try:
            yield json.loads(connection.recv_bytes())
        except EOFError:
            return


def _limit(kind: int, amount: int) -> None:
    """Set a soft limit, as far as the machine's own hard limit lets it rise."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


def _environment() -> dict[str, str]:
    """The parent's, with its import path; one thread for BLAS, whose buffers would eat the address space."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
