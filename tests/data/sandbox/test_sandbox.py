"""A bad task affects only itself: it is answered with a reason, and all other tasks with their values."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from medmim.data.sandbox.fork_server import ForkServer
from medmim.data.sandbox.sandbox import Answer, Limits, Sandbox
from medmim.data.sandbox.sandbox_worker import attempt
from medmim.errors import DataError, RunError
from medmim.files import WriteError

QUICK = Limits(memory_bytes=1 << 30, cpu_s=2, wall_s=4.0)
PATIENT = replace(QUICK, wall_s=60.0)  # a busy machine takes seconds for a task that does nothing


def run_each(
    function: Callable[..., Any], tasks: list[dict[str, Any]], *, workers: int, **options: Any
) -> list[Answer]:
    with Sandbox(workers) as sandbox:
        return sandbox.run_each(function, tasks, **options)


class Panic(BaseException):
    """The kind of exception that Rust codecs raise."""


def panic() -> None:
    raise Panic


def refuse() -> None:
    raise DataError("no", reason="refused")


def spin() -> None:
    while True:
        pass


ACTIONS: dict[str, Callable[[], Any]] = {
    "die": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "panic": panic,
    "hang": lambda: time.sleep(60),
    "spin": spin,
    "eat": lambda: bytearray(3 << 30),
    "refuse": refuse,
    "fail": lambda: int("SENTINEL"),
    "exit": lambda: os._exit(3),
    "good": lambda: None,
}


def work(what: str, number: int = 0) -> int:
    ACTIONS[what]()
    return number


def limits_here() -> list[int]:
    return [resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)[0]]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("die", "parser_crash"),
        ("exit", "parser_crash"),
        ("panic", "parser_crash"),
        ("hang", "timeout"),
        ("eat", "memory"),
        ("refuse", "refused"),
        ("fail", "parser_error"),
    ],
)
def test_a_bad_task_affects_only_itself(what: str, reason: str):
    tasks = [{"what": "good", "number": number} for number in range(6)]
    tasks[2] = {"what": what}
    answers = run_each(work, tasks, workers=2, limits=QUICK if what == "hang" else PATIENT)
    assert answers[2] == Answer(reason=reason)
    assert [answer.value for place, answer in enumerate(answers) if place != 2] == [0, 1, 3, 4, 5]


def test_bad_tasks_among_many_affect_only_themselves():
    """Tasks that waited behind a bad one in a worker's pipe run in another worker."""
    bad = {7: "die", 40: "exit", 41: "panic", 120: "die", 199: "eat"}
    tasks = [{"what": bad.get(number, "good"), "number": number} for number in range(200)]
    answers = run_each(work, tasks, workers=2, limits=PATIENT)
    expected = {7: "parser_crash", 40: "parser_crash", 41: "parser_crash", 120: "parser_crash", 199: "memory"}
    assert {place: one.reason for place, one in enumerate(answers) if one.reason} == expected
    assert all(one.value == place for place, one in enumerate(answers) if place not in bad)


class SlowToSend(BaseModel):
    number: int

    def model_dump(self, **words: Any) -> dict[str, Any]:
        time.sleep(0.5)  # as on a busy machine: the worker dies before this task is sent
        return super().model_dump(**words)


def test_a_task_answered_before_its_worker_died_is_not_blamed():
    tasks: list[dict[str, Any]] = [{"what": "good", "number": number} for number in range(40)]
    tasks[1] = {"what": "die"}
    tasks[2]["number"] = SlowToSend(number=2)
    answers = run_each(work, tasks, workers=1, limits=PATIENT)
    assert {place: one.reason for place, one in enumerate(answers) if one.reason} == {1: "parser_crash"}
    assert answers[0].value == 0


def test_large_tasks_and_answers_do_not_block():
    tasks = [{"name": str(number) * 300_000} for number in range(40)]
    assert [answer.value for answer in run_each(echo, tasks, workers=2)] == [task["name"] for task in tasks]


def test_nothing_outlives_a_killed_command(tmp_path: Path):
    code = (
        "import sys; from test_sandbox import note_and_sleep\n"
        "from medmim.data.sandbox.sandbox import Sandbox\n"
        "with Sandbox(2) as sandbox: sandbox.run_each(note_and_sleep, [{'folder': sys.argv[1]}] * 2)"
    )
    folders = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, **folders})
    while len(list(tmp_path.iterdir())) < 2:
        assert command.poll() is None
        time.sleep(0.05)
    command.kill()
    command.wait()
    left = {int(path.name) for path in tmp_path.iterdir()}
    until = time.monotonic() + 60
    while left and time.monotonic() < until:
        left = {pid for pid in left if Path(f"/proc/{pid}").exists()}
        time.sleep(0.05)
    assert not left


def note_and_sleep(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(50)


def test_modules_are_imported_before_the_first_task():
    with Sandbox(1, ["wave"]) as sandbox:
        assert sandbox.run_each(imported, [{"name": "wave"}, {"name": "chunk"}])[0].value is True


def imported(name: str) -> bool:
    return name in sys.modules


def test_bad_tasks_only():
    answers = run_each(
        work, [{"what": "die"}, {"what": "panic"}, {"what": "exit"}], workers=3, limits=PATIENT
    )
    assert {answer.reason for answer in answers} == {"parser_crash"}


def test_cpu_time_is_limited():
    limits = Limits(memory_bytes=1 << 30, cpu_s=1, wall_s=200.0)
    started = time.monotonic()
    assert run_each(work, [{"what": "spin"}], workers=1, limits=limits)[0].reason == "timeout"
    assert time.monotonic() - started < 100  # on a busy machine a second of CPU time takes long


def test_limits_are_set_and_progress_is_reported():
    progress: list[int] = []
    answers = run_each(limits_here, [{}, {}], workers=1, limits=PATIENT, on_done=progress.append)
    assert [answer.value for answer in answers] == [[1 << 30, 0]] * 2
    assert progress == [1, 2]


def test_undecodable_names_are_passed_unchanged():
    name = os.fsdecode(b"scan\xff\n.dcm")
    answers = run_each(echo, [{"name": name}], workers=1)
    assert answers[0].value == name


def echo(name: str) -> str:
    return name


def test_without_tasks_no_process_starts():
    assert run_each(work, [], workers=4) == []


def test_workers_that_cannot_start_are_an_error():
    server = ForkServer(program="raise SystemExit(3)")
    with Sandbox(1, server=server) as sandbox, pytest.raises(RunError, match="could not start"):
        sandbox.run_each(work, [{"what": "good"}])


def test_children_of_a_worker_stop_with_it(tmp_path: Path):
    run_each(leave_child, [{"note": str(tmp_path / "pid")}], workers=1, limits=QUICK)
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child of a stopped worker is alive")


def leave_child(note: str) -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    Path(note).write_text(str(child))
    time.sleep(60)


def test_answers_contain_no_text_of_the_error():
    assert attempt(f"{work.__module__}:work", {"what": "fail"}) == {"reason": "parser_error"}
    assert attempt(f"{work.__module__}:work", {"what": "panic"})["ending"]


def test_workers_are_kept_between_calls():
    with Sandbox(1) as sandbox:
        first = sandbox.run_each(process_id, [{}, {}])
        second = sandbox.run_each(process_id, [{}])
    assert len({answer.value for answer in [*first, *second]}) == 1


def process_id() -> int:
    return os.getpid()


def test_a_task_that_writes_too_large_a_file_is_stopped(tmp_path: Path):
    limits = Limits(memory_bytes=1 << 30, cpu_s=2, wall_s=20.0, file_bytes=1000)
    tasks = [{"path": str(tmp_path / "a"), "count": count} for count in (10, 2000, 20)]
    answers = run_each(write_much, tasks, workers=1, limits=limits)
    assert [answer.reason for answer in answers] == [None, "too_large", None]


def write_much(path: str, count: int) -> None:
    with Path(path).open("wb") as stream:
        stream.write(bytes(count))


def test_a_full_disk_stops_all_tasks():
    with Sandbox(1) as sandbox:
        with pytest.raises(WriteError, match="No space left"):
            sandbox.run_each(fill, [{}, {}])
        assert sandbox.run_each(echo, [{"name": "a"}])[0].value == "a"


def fill() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "a name")


def test_values_are_converted_when_they_arrive():
    with Sandbox(1) as sandbox:
        answers = sandbox.run_each(echo, [{"name": "a"}, {"name": "bc"}], keep=len)
    assert [answer.value for answer in answers] == [1, 2]
