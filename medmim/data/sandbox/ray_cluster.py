"""Independent jobs on a Ray cluster, whose nodes may fail."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from medmim.errors import RunError, UsageError

Job = Mapping[str, Any]

_AT_ONCE = 256  # submitted jobs; the cluster runs as many of them as it has CPUs
_RETRIES = 8  # lost nodes after which a job fails
_WAIT_S = 30.0
_CONNECT_S = 5.0


@runtime_checkable
class Engine(Protocol):
    """Runs jobs, each at least once: jobs must be idempotent."""

    @property
    def capacity(self) -> int:
        """Number of jobs that run at one time."""

    def map(self, function: Callable[..., Any], jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Call `function(**job)` for each job; yield the index and result of each job when it ends."""


class RayEngine:
    """Jobs on the CPUs of a Ray cluster; jobs of a node that fails are repeated on another node.

    Args:
        at_once: maximum number of submitted jobs; None: as many as the cluster can run.
        gpus: number of GPUs for each job; 0.5 lets two jobs share one.
    """

    def __init__(self, ray: Any, at_once: int | None = None, *, gpus: float = 0.0) -> None:
        self._ray = ray
        self._at_once = at_once
        self._gpus = gpus

    @property
    def capacity(self) -> int:
        """Number of jobs that the cluster has CPUs and GPUs for, or fewer if the user limits them."""
        capacity = self._cpus()
        if self._gpus:
            capacity = min(capacity, int(self._ray.cluster_resources().get("GPU", 0) / self._gpus))
        return max(1, min(capacity, self._at_once or capacity))

    def map(self, function: Callable[..., Any], jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Call `function(**job)` for each job, as `Engine.map` does.

        Raises:
            RunError: if the cluster has no CPUs left, or a job fails because of lost nodes.
        """
        remote = self._ray.remote(max_retries=_RETRIES, num_gpus=self._gpus)(function)
        places: dict[Any, int] = {}
        waiting = iter(enumerate(jobs))
        while True:
            while len(places) < (self._at_once or _AT_ONCE) and (following := next(waiting, None)):
                places[remote.remote(**following[1])] = following[0]
            if not places:
                return
            for done in self._wait(list(places)):
                yield places.pop(done), self._result(done)

    def _wait(self, pending: list[Any]) -> list[Any]:
        """Return the jobs that have ended, possibly none."""
        ended: list[Any] = self._ray.wait(pending, num_returns=1, timeout=_WAIT_S)[0]
        if not ended and not self._cpus():
            raise RunError(
                "the Ray cluster has no CPUs left, expected at least one node; start nodes and run the same "
                "command again"
            )
        return ended

    def _result(self, done: Any) -> Any:
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise RunError(
                f"a job failed on the Ray cluster ({type(error).__name__}): expected stable nodes; run the "
                "same command again"
            ) from error

    def _cpus(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))


@contextlib.contextmanager
def connect_ray(address: str, *, at_once: int | None = None, gpus: float = 0.0) -> Iterator[RayEngine]:
    """Connect to a running Ray cluster for the duration of the block.

    Args:
        address: address for `ray.init`: `host:6379`, `ray://host:10001`, or `auto` for a local cluster.
        at_once: maximum number of jobs at one time; None: as many as the cluster can run.

    Raises:
        UsageError: if Ray is not installed.
        RunError: if no cluster is running.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(
            "--engine ray: expected Ray, which is not installed; run `pip install 'medmim[ray]'`"
        ) from error
    try:
        _check_port(address)
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"--address {address}: expected a running Ray cluster, got {type(error).__name__}; start it "
            "with `ray start --head` on that host and `ray start --address` on this one"
        ) from error
    try:
        yield RayEngine(ray, at_once, gpus=gpus)
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Raise OSError if no process listens at the address: Ray would retry for six minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
