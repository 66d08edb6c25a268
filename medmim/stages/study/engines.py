"""Where the trainings of a study run: one after the other here, or spread over the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medmim.data.sandbox.ray_cluster import RayEngine
from medmim.stages.study.training_process import Job, Outcome, run_apart


@runtime_checkable
class StudyEngine(Protocol):
    """Runs jobs, each at least once: a job that is begun again continues what it left."""

    @property
    def width(self) -> int:
        """Number of jobs that run at one time."""

    @property
    def asks_ahead(self) -> bool:
        """Whether it asks for all jobs before the first one ends, or for each when the one before it has."""

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs; yield each with its outcome as it ends."""


@dataclass(frozen=True)
class LocalEngine:
    """One job after the other on this machine.

    Attributes:
        call: runs one of them.
    """

    call: Callable[[Job, Path], Outcome] = run_apart

    @property
    def width(self) -> int:
        """One."""
        return 1

    @property
    def asks_ahead(self) -> bool:
        """No."""
        return False

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run them in order."""
        for job in jobs:
            yield job, self.call(job, home)


@dataclass(frozen=True)
class RayStudyEngine:
    """Jobs on the nodes of a cluster, which see the dataset and the home folder under the same paths.

    Attributes:
        ray: the cluster; a job that loses its node is begun again on another.
    """

    ray: RayEngine

    @property
    def width(self) -> int:
        """As many as the cluster has room for."""
        return self.ray.width

    @property
    def asks_ahead(self) -> bool:
        """Yes: the cluster is kept busy."""
        return True

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run as many at one time as there is room for."""
        listed = list(jobs)
        words = [{"job": asdict(job), "home": str(home.resolve())} for job in listed]
        for place, outcome in self.ray.map(_run_there, words):
            yield listed[place], Outcome(**outcome)


def _run_there(*, job: Mapping[str, Any], home: str) -> dict[str, Any]:
    """Run on a node; plain values travel, whatever version of a class the other side has."""
    return asdict(run_apart(Job(**job), Path(home)))
