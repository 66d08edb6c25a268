"""Workers without a fork server answer tasks, report how they ended, and stop with the command."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import pytest

from medmim.data.sandbox.sandbox import Sandbox
from medmim.data.sandbox.spawned_workers import SpawnedWorkers
from medmim.errors import RunError


def answer(what: str) -> str:
    if what == "crash":
        os._exit(3)
    return what.upper()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_tasks_are_answered_and_a_crash_costs_only_its_task():
    with Sandbox(1, server=SpawnedWorkers()) as sandbox:
        answers = sandbox.run_each(answer, [{"what": "one"}, {"what": "crash"}, {"what": "two"}])
    assert [(one.value, one.reason) for one in answers] == [
        ("ONE", None),
        (None, "parser_crash"),
        ("TWO", None),
    ]


def test_a_worker_is_stopped_with_its_status_and_all_end_with_the_command():
    with contextlib.closing(SpawnedWorkers()) as workers:
        pipes = [workers.start() for _ in range(2)]
        pids = [json.loads(pipe.recv_bytes())["pid"] for pipe in pipes]
        os.kill(pids[0], signal.SIGSTOP)
        assert workers.stop(pids[0]) == -signal.SIGKILL
    assert not any(map(is_running, pids))


def test_a_worker_that_fails_is_an_error_with_a_remedy():
    workers = SpawnedWorkers(program="raise SystemExit(3)")
    with pytest.raises(RunError, match=r"could not start \(status 3\).*ulimit"):
        workers.start()
    workers.close()
