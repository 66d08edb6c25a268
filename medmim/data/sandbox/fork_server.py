"""The fork server: a fresh interpreter that imports the parsers once and forks the worker processes.

The server parses no file and receives no data of the scans. Workers start in milliseconds, because they
inherit the imported modules, and they inherit nothing from the memory of the command.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from medmim.data.sandbox.sandbox_worker import serve
from medmim.errors import RunError

START_S = 120.0
_GRACE_S = 0.2
_START, _STOP = b"start", b"stop"
_BOOT = (
    "import sys; from medmim.data.sandbox.fork_server import fork_workers; "
    "fork_workers(int(sys.argv[1]), sys.argv[2:])"
)


class ForkServer:
    """Starts and stops worker processes.

    Args:
        modules: imported before the first worker is forked.
        program: Python source that the interpreter of the server runs.
    """

    def __init__(self, modules: Sequence[str] = (), *, program: str = _BOOT) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_S)
        self._used = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # messages of parsers quote values of the scan
                start_new_session=True,
                env=environment(),
            )

    def start(self) -> Connection:
        """Start a worker and return the pipe to it; its first message contains its `pid`.

        Raises:
            RunError: if it cannot be started.
        """
        self._used = True
        ours, theirs = Pipe()
        with contextlib.closing(theirs):
            try:
                socket.send_fds(self._socket, [_START], [theirs.fileno()])
            except OSError as error:
                raise no_start(f"status {self._process.poll()}") from error
        return ours

    def stop(self, pid: int) -> int:
        """Stop a worker and all its children; return its exit status (negative: the signal).

        Raises:
            RunError: if the fork server has ended.
        """
        try:
            self._socket.send(b"%s %d" % (_STOP, pid))
            answer = self._socket.recv(32)
        except OSError as error:
            raise no_start(type(error).__name__) from error
        if not answer:
            raise no_start(f"status {self._process.poll()}")
        return int(answer)

    def close(self) -> None:
        """Stop all workers and the fork server."""
        if not self._used:
            self._process.kill()  # it may still be importing
        self._socket.close()
        self._process.wait()


def no_start(why: str) -> RunError:
    """Return the error for worker processes that cannot be started."""
    return RunError(
        f"a worker process could not start ({why}): expected `python -c 'import medmim'` to work; check the "
        "installation and `ulimit -a`"
    )


def fork_workers(descriptor: int, modules: Sequence[str]) -> None:
    """Run the fork server: fork and stop workers until the command that requested them ends."""
    for module in modules:
        importlib.import_module(module)
    control = socket.socket(fileno=descriptor)
    pids: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 64, 1)
        if message == _START:
            pids.add(_fork(control, descriptors[0]))
        elif message:
            pid = int(message.removeprefix(_STOP))
            pids.remove(pid)
            control.send(b"%d" % _end(pid, time.monotonic() + _GRACE_S))
        else:
            break
    for pid in pids:
        _end(pid, 0.0)
    os._exit(0)


def _fork(control: socket.socket, descriptor: int) -> int:
    """Fork a worker that answers on `descriptor`; return its process id."""
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    status = 1
    try:
        os.setsid()
        control.close()
        serve(Connection(descriptor))
        status = 0
    finally:
        os._exit(status)


def _end(pid: int, deadline: float) -> int:
    """Wait until the time `deadline` for a worker to end by itself, then kill its process group."""
    while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.001)
    for kill in (os.killpg, os.kill):  # a worker that has just started has no group of its own
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode((found if found[0] else os.waitpid(pid, 0))[1])


def environment() -> dict[str, str]:
    """Return the environment with the import path; one BLAS thread, whose buffers use address space."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
