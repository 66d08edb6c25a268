"""Engines that run the trainings of a study, on this machine or on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medmim.data.sandbox.ray_cluster import RayEngine
from medmim.stages.study.training_process import Job, Outcome, run_apart


@runtime_checkable
class StudyEngine(Protocol):
    """Runs each job at least once; a restarted job resumes its training."""

    @property
    def width(self) -> int:
        """Number of jobs that run at the same time."""

    @property
    def asks_ahead(self) -> bool:
        """Whether the engine requests all jobs at once, rather than each after the previous one has ended."""

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs; yield each job with its outcome when it ends."""


@dataclass(frozen=True)
class LocalEngine:
    """Runs jobs one after another on this machine.

    Attributes:
        call: function that runs one job.
    """

    call: Callable[[Job, Path], Outcome] = run_apart

    @property
    def width(self) -> int:
        """One job."""
        return 1

    @property
    def asks_ahead(self) -> bool:
        """False: each job is requested after the previous one has ended."""
        return False

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs in order."""
        for job in jobs:
            yield job, self.call(job, home)


@dataclass(frozen=True)
class RayStudyEngine:
    """Runs jobs on a cluster whose nodes share the dataset and the home folder under the same paths.

    Attributes:
        ray: the cluster; if a node fails, its job is restarted on another node.
    """

    ray: RayEngine

    @property
    def width(self) -> int:
        """Number of jobs that the cluster can run at the same time."""
        return self.ray.capacity

    @property
    def asks_ahead(self) -> bool:
        """True: all jobs are submitted at once to keep the cluster busy."""
        return True

    def run(self, jobs: Iterable[Job], home: Path) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs on all available resources of the cluster."""
        listed = list(jobs)
        requests = [{"job": asdict(job), "home": str(home.resolve())} for job in listed]
        for index, outcome in self.ray.map(_run_on_node, requests):
            yield listed[index], Outcome(**outcome)


def _run_on_node(*, job: Mapping[str, Any], home: str) -> dict[str, Any]:
    """Run a job on a node; exchange plain values, so that the classes of both sides may differ."""
    return asdict(run_apart(Job(**job), Path(home)))
