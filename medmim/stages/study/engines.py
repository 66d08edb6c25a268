"""Engines of a study: trainings one after the other on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medmim.data.sandbox.ray_cluster import RayEngine
from medmim.stages.study.training_process import Job, Outcome, run_apart


@runtime_checkable
class StudyEngine(Protocol):
    """Runs jobs, each at least once; a job that is restarted resumes its training."""

    @property
    def width(self) -> int:
        """Number of jobs that run at one time."""

    @property
    def asks_ahead(self) -> bool:
        """Whether it takes all jobs before the first one ends, or each when the one before it has ended."""

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs; yield each with its outcome as it ends."""


@dataclass(frozen=True)
class LocalEngine:
    """Runs one job after the other on this machine.

    Attributes:
        call: runs one job.
    """

    call: Callable[[Job, Path], Outcome] = run_apart

    @property
    def width(self) -> int:
        """One job."""
        return 1

    @property
    def asks_ahead(self) -> bool:
        """No: each job is taken when the one before it has ended."""
        return False

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs in order."""
        for job in jobs:
            yield job, self.call(job, home)


@dataclass(frozen=True)
class RayStudyEngine:
    """Runs jobs on the nodes of a cluster, which see the dataset and the home folder under the same paths.

    Attributes:
        ray: the cluster; a job that loses its node is restarted on another.
    """

    ray: RayEngine

    @property
    def width(self) -> int:
        """Number of jobs that the cluster has resources for."""
        return self.ray.capacity

    @property
    def asks_ahead(self) -> bool:
        """Yes: all jobs are submitted, so that the cluster is kept busy."""
        return True

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run as many jobs at a time as the cluster has resources for."""
        listed = list(jobs)
        requests = [{"job": asdict(job), "home": str(home.resolve())} for job in listed]
        for index, outcome in self.ray.map(_run_on_node, requests):
            yield listed[index], Outcome(**outcome)


def _run_on_node(*, job: Mapping[str, Any], home: str) -> dict[str, Any]:
    """Run a job on a node; plain values are sent, so that the classes of the two sides may differ."""
    return asdict(run_apart(Job(**job), Path(home)))
