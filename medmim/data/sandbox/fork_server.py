"""Where worker processes come from: one fresh interpreter that imports what they need, and forks them.

The nursery parses nothing and is told nothing of the scans. A worker is there in milliseconds, because it
inherits the imported modules; it never inherits what its parent's parent, the command, holds in memory.
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
_DYING_S = 0.2
_START, _STOP = b"start", b"stop"
_BOOT = (
    "import sys; from medmim.data.sandbox.fork_server import fork_workers; "
    "fork_workers(int(sys.argv[1]), sys.argv[2:])"
)


class ForkServer:
    """Starts and ends worker processes.

    Args:
        modules: imported before the first worker starts, so that none has to.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_S)
        self._used = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # parsers quote values of the scan in their complaints
                start_new_session=True,
                env=_environment(),
            )

    def start(self) -> Connection:
        """Start a worker and return the pipe to it; its first message, with its `pid`, says that it is there.

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
        """End a worker and everything that it started; return its exit status (negative: the signal).

        Raises:
            RunError: if the nursery is gone.
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
        """End all workers, and the nursery."""
        if not self._used:
            self._process.kill()  # it may still be importing
        self._socket.close()
        self._process.wait()


def no_start(why: str) -> RunError:
    """Return the error for worker processes that cannot be had."""
    return RunError(
        f"a worker process could not start ({why}): expected `python -c 'import medmim'` to work; check the "
        "installation and `ulimit -a`"
    )


def fork_workers(descriptor: int, modules: Sequence[str]) -> None:
    """Be a nursery: fork and end workers until the command that asked for them is gone."""
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
            control.send(b"%d" % _end(pid, time.monotonic() + _DYING_S))
        else:
            break
    for pid in pids:
        _end(pid, 0.0)
    os._exit(0)


def _fork(control: socket.socket, descriptor: int) -> int:
    """Start a worker that answers at `descriptor`; return its process id."""
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    status = 1
    try:
        os.setsid()
        control.close()
        serve(descriptor)
        status = 0
    finally:
        os._exit(status)


def _end(pid: int, patience: float) -> int:
    """Wait for a worker that is dying by itself until the clock shows `patience`, then kill its group."""
    while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < patience:
        time.sleep(0.001)
    for kill in (os.killpg, os.kill):  # one that has only just started has no group of its own
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode((found if found[0] else os.waitpid(pid, 0))[1])


def _environment() -> dict[str, str]:
    """The parent's, with its import path; one thread for BLAS, whose buffers would eat the address space."""
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
