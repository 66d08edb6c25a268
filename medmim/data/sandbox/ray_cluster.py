"""Where many independent jobs run when one machine is not enough: a Ray cluster, whose nodes may fail."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from medmim.errors import RunError, UsageError

Job = Mapping[str, Any]

_AT_ONCE = 256  # jobs that are handed out; the cluster runs as many of them as it has processors
_RETRIES = 8  # nodes that a job may lose before the run gives up
_PATIENCE_S = 30.0
_CONNECT_S = 5.0


@runtime_checkable
class Engine(Protocol):
    """Runs jobs somewhere, each at least once: a job must be harmless when it is done again."""

    @property
    def width(self) -> int:
        """Number of jobs that run at one time."""

    def map(self, function: Callable[..., Any], jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Call `function(**job)` for each job; yield the place and result of each as it ends.

        Args:
            function: a function of a module that every node has installed.
            jobs: keyword arguments, one mapping a call.
        """


class RayEngine:
    """Jobs on the processors of a Ray cluster; those of a node that dies are done again on another.

    Args:
        ray: the module, connected.
        at_once: jobs that are handed out at one time; None: as many as the cluster can run.
        gpus: of each job; a half lets two share one.
    """

    def __init__(self, ray: Any, at_once: int | None = None, *, gpus: float = 0.0) -> None:
        self._ray = ray
        self._at_once = at_once
        self._gpus = gpus

    @property
    def width(self) -> int:
        """Jobs that the cluster has processors and GPUs for now, or fewer if the user said so."""
        room = self._processors()
        if self._gpus:
            room = min(room, int(self._ray.cluster_resources().get("GPU", 0) / self._gpus))
        return max(1, min(room, self._at_once or room))

    def map(self, function: Callable[..., Any], jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Call `function(**job)` for each job, as `Engine.map` says.

        Raises:
            RunError: if the cluster has no processors left, or a job loses one node after the other.
        """
        remote = self._ray.remote(max_retries=_RETRIES, num_gpus=self._gpus)(function)
        places: dict[Any, int] = {}
        waiting = iter(enumerate(jobs))
        while True:
            while len(places) < (self._at_once or _AT_ONCE) and (following := next(waiting, None)):
                places[remote.remote(**following[1])] = following[0]
            if not places:
                return
            for done in self._some_of(list(places)):
                yield places.pop(done), self._result_of(done)

    def _some_of(self, pending: list[Any]) -> list[Any]:
        """Return jobs that ended; there may be none of them yet."""
        ended: list[Any] = self._ray.wait(pending, num_returns=1, timeout=_PATIENCE_S)[0]
        if not ended and not self._processors():
            raise RunError(
                "the Ray cluster has no processors left, expected at least one node; start nodes and run the "
                "same command again"
            )
        return ended

    def _result_of(self, done: Any) -> Any:
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise RunError(
                f"the Ray cluster gave a job up ({type(error).__name__}): expected nodes that last; run the "
                "same command again"
            ) from error

    def _processors(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))


@contextlib.contextmanager
def connect_ray(address: str, *, at_once: int | None = None, gpus: float = 0.0) -> Iterator[RayEngine]:
    """Connect to a running Ray cluster, and leave it afterwards as it was.

    Args:
        address: as `ray.init` takes it: `host:6379`, `ray://host:10001`, or `auto` for that of this machine.
        at_once: jobs at one time; None: as many as the cluster can run.
        gpus: of each job.

    Raises:
        UsageError: if Ray is not installed.
        RunError: if there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError(
            "--engine ray: expected Ray, which is not installed here; run `pip install 'medmim[ray]'`"
        ) from error
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"--address {address}: expected a running Ray cluster, got {type(error).__name__}; start "
            "one with `ray start --head` there, and `ray start --address` here"
        ) from error
    try:
        yield RayEngine(ray, at_once, gpus=gpus)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray would try for six minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
