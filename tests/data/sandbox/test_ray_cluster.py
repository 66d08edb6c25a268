"""Jobs on a Ray cluster: how they are submitted, and the errors without a cluster."""

from __future__ import annotations

import socket
import types
from typing import Any

import pytest

from medmim.data.sandbox.ray_cluster import RayEngine, connect_ray
from medmim.errors import RunError, UsageError


class RayError(Exception):
    pass


class TaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class Job(list):  # type: ignore[type-arg]
    __hash__ = object.__hash__  # type: ignore[assignment]


class FakeRay:
    """Runs jobs immediately, finishes the newest first, and counts how many are pending at one time."""

    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=TaskError)

    def __init__(self, processors: int = 2) -> None:
        self.processors = processors
        self.most = 0

    def remote(self, **_: Any) -> Any:
        return lambda function: types.SimpleNamespace(remote=lambda **job: Job([function, job]))

    def wait(self, pending: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(pending))
        return (pending[-1:], pending[:-1]) if self.processors else ([], pending)

    def get(self, done: Any) -> Any:
        try:
            return done[0](**done[1])
        except ValueError as error:
            raise TaskError(error) from error

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.processors)}


@pytest.fixture
def fake() -> FakeRay:
    return FakeRay()


def square(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    if number > 99:
        raise RayError
    return number * number


def test_every_job_has_one_result_and_few_are_pending_at_one_time(fake: FakeRay):
    engine = RayEngine(fake, 3)
    found = dict(engine.map(square, [{"number": number} for number in range(10)]))
    assert found == {number: number * number for number in range(10)}
    assert fake.most == 3
    assert engine.capacity == 2


def test_the_error_of_a_job_is_raised(fake: FakeRay):
    with pytest.raises(ValueError, match="negative"):
        list(RayEngine(fake).map(square, [{"number": -1}]))


def test_a_job_that_loses_its_nodes_fails(fake: FakeRay):
    with pytest.raises(RunError, match="a job failed on the Ray cluster"):
        list(RayEngine(fake).map(square, [{"number": 100}]))


def test_a_cluster_without_cpus_is_named(fake: FakeRay):
    fake.processors = 0
    with pytest.raises(RunError, match="no CPUs left"):
        list(RayEngine(fake).map(square, [{"number": 1}]))


def test_missing_ray_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'medmim\[ray\]'"), connect_ray("auto"):
        pass


def test_an_address_without_a_cluster_is_named():
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RunError, match="expected a running Ray cluster"), connect_ray(f"127.0.0.1:{port}"):
        pass
