"""Worker processes without a fork server, for macOS and Windows: each is a fresh interpreter.

They start more slowly. A worker that is stopped leaves its children running where processes have no groups,
and there is no limit on memory or CPU time where the system has none; the wall time is limited everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Client, Connection, Listener

from medmim.data.sandbox.fork_server import environment, no_start
from medmim.data.sandbox.sandbox_worker import serve

_GRACE_S = 0.2
_PROGRAM = "import sys; from medmim.data.sandbox.spawned_workers import work; work(sys.argv[1:])"


class SpawnedWorkers:
    """Starts and stops worker processes; has the methods of `ForkServer`.

    Args:
        modules: imported by each worker before its first task.
        program: Python source that a worker runs.
    """

    def __init__(self, modules: Sequence[str] = (), *, program: str = _PROGRAM) -> None:
        self._command = [sys.executable, "-P", "-c", program, *modules]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> Connection:
        """Start a worker and return the pipe to it; its first message contains its `pid`.

        Raises:
            RunError: if it cannot be started.
        """
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,  # stays open: the worker ends when this process does
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # messages of parsers quote values of the scan
            start_new_session=True,
            env=environment(),
        )
        self._processes[process.pid] = process
        assert process.stdin is not None
        assert process.stdout is not None
        key = secrets.token_bytes(32)
        with contextlib.suppress(OSError):
            process.stdin.write(key.hex().encode() + b"\n")
            process.stdin.flush()
        address = process.stdout.readline().decode().strip()
        if not address:
            raise no_start(f"status {process.wait()}")
        host, _, port = address.partition("\t")
        return Client((host, int(port)) if port else host, authkey=key)

    def stop(self, pid: int) -> int:
        """Stop a worker and all its children; return its exit status (negative: the signal)."""
        process = self._processes.pop(pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        return process.wait()

    def close(self) -> None:
        """Stop all workers."""
        for pid in list(self._processes):
            self.stop(pid)


def work(modules: Sequence[str]) -> None:
    """Run a worker: print the address at which it answers tasks, then answer them."""
    key = bytes.fromhex(sys.stdin.readline())
    threading.Thread(target=_end_with_command, daemon=True).start()
    for module in modules:
        importlib.import_module(module)
    with Listener(authkey=key) as listener:
        place = listener.address
        sys.stdout.write((place if isinstance(place, str) else f"{place[0]}\t{place[1]}") + "\n")
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what parsers print would fill the pipe
        with listener.accept() as connection:
            serve(connection)


def _end_with_command() -> None:
    sys.stdin.read()
    os._exit(1)
