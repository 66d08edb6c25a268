"""The fork server starts workers, reports how they ended, and stops them with itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

import pytest

from medmim.data.sandbox.fork_server import ForkServer
from medmim.errors import RunError


@pytest.fixture
def server():
    with contextlib.closing(ForkServer()) as made:
        yield made


def start(server):
    """Start a worker; return its pipe and process id."""
    connection = server.start()
    return connection, json.loads(connection.recv_bytes())["pid"]


def test_the_end_of_a_worker_is_reported(server):
    connection, pid = start(server)
    connection.close()  # its tasks are over
    assert server.stop(pid) == 0
    _, pid = start(server)
    os.kill(pid, signal.SIGSEGV)
    assert server.stop(pid) == -signal.SIGSEGV


def test_a_worker_that_does_not_end_is_killed(server):
    _, pid = start(server)
    os.kill(pid, signal.SIGSTOP)
    assert server.stop(pid) == -signal.SIGKILL


def test_closing_stops_all_workers():
    server = ForkServer()
    _, pid = start(server)
    server.close()
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("the worker is still running")


def test_a_server_that_fails_is_an_error_with_a_remedy():
    server = ForkServer(program="raise SystemExit(3)")
    server._process.wait()
    with pytest.raises(RunError, match=r"could not start \(status 3\).*ulimit"):
        server.start()
    server.close()
