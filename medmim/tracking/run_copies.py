"""Copies of runs as plain values, which `sync` uploads to a server and `pack` writes into an archive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mlflow.entities import Run
from pydantic import ConfigDict, Field, TypeAdapter

from medmim import files
from medmim.data.dataset.manifest import digest_of
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.study_runs import PARENT

_EXACT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass(frozen=True)
class VersionCopy:
    """A version of a registered model.

    Attributes:
        origin: id of the run that produced it, in the store where it ran.
    """

    __pydantic_config__ = _EXACT

    model: str
    origin: str
    tags: Mapping[str, str]
    aliases: Sequence[str]


@dataclass(frozen=True)
class RunCopy:
    """A copy of one run.

    Attributes:
        origin: id of the run in the store where it ran.
        parent: origin of its parent run; empty if it has none.
        start_time, end_time: milliseconds since 1970; the end time is 0 until the run ends.
        params, tags: of the run; the tags exclude the parent.
        metrics: key, value, timestamp in milliseconds and step of every point.
        datasets: name, digest, source and context of each input dataset.
        artifacts: relative path → SHA-256.
    """

    __pydantic_config__ = _EXACT

    origin: str
    parent: str
    experiment: str
    name: str
    status: Annotated[str, Field(pattern="^(RUNNING|SCHEDULED|FINISHED|FAILED|KILLED)$")]
    start_time: int
    end_time: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Sequence[tuple[str, float, int, int]]
    datasets: Sequence[Mapping[str, str]]
    versions: Sequence[VersionCopy]
    artifacts: Mapping[str, str]
    folder: Path = field(compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return the copy as JSON values, without the folder of its artifacts."""
        content = asdict(self)
        del content["folder"]
        # JSON cannot represent infinity and NaN
        content["metrics"] = [
            [key, value if math.isfinite(value) else str(value), time, step]
            for key, value, time, step in self.metrics
        ]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, folder: Path) -> RunCopy:
        """Create a copy from the values that `as_json` returned, or a file that claims to contain them.

        Raises:
            ValueError: for missing or unknown fields, and values of other types.
        """
        return TypeAdapter(cls).validate_python({**content, "folder": folder})

    @property
    def digest(self) -> str:
        """Hash of the content; equal for equal content."""
        return digest_of(self.as_json())


def copy_of(store: Store, run: Run) -> RunCopy:
    """Return a copy of a run of the local store."""
    client, info = store.client, run.info
    histories = [client.get_metric_history(info.run_id, key) for key in sorted(run.data.metrics)]
    points = [point for history in histories for point in history]
    folder = store.artifact(run)
    tags = dict(run.data.tags)
    parent = tags.pop(PARENT, "")
    origin = tags.pop(ORIGIN, str(info.run_id))
    return RunCopy(
        origin=origin,
        parent=found.data.tags.get(ORIGIN, parent) if (found := store.find_run(parent)) else "",
        experiment=client.get_experiment(info.experiment_id).name,
        name=str(info.run_name),
        status=str(info.status),
        start_time=int(info.start_time),
        end_time=int(info.end_time or 0),
        params=dict(run.data.params),
        tags=tags,
        metrics=tuple((point.key, point.value, point.timestamp, point.step) for point in points),
        datasets=tuple(_dataset(one) for one in run.inputs.dataset_inputs),
        versions=tuple(_versions(store, str(info.run_id), origin)),
        artifacts=_hashes(folder),
        folder=folder,
    )


def with_parents(store: Store, runs: Sequence[Run]) -> list[Run]:
    """Return runs together with all their ancestors, parents first."""
    ordered: dict[str, Run] = {}

    def add(run: Run) -> None:
        parent = store.find_run(run.data.tags.get(PARENT, ""))  # None if it was deleted for good
        if parent and parent.info.run_id not in ordered:
            add(parent)
        ordered.setdefault(str(run.info.run_id), run)

    for run in reversed(runs):  # oldest first
        add(run)
    return list(ordered.values())


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder; links, which may lead out of it, are left out."""
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): files.sha256_of(path) for path in paths}


def _dataset(one: Any) -> dict[str, str]:
    context = next((tag.value for tag in one.tags if tag.key == "mlflow.data.context"), "")
    dataset = one.dataset
    return {"name": dataset.name, "digest": dataset.digest, "source": dataset.source, "context": context}


def _versions(store: Store, run_id: str, origin: str) -> list[VersionCopy]:
    found = store.client.search_model_versions(f"run_id = '{run_id}'")
    versions = []
    for one in sorted(found, key=lambda version: int(version.version)):
        tags = {key: value for key, value in one.tags.items() if key != ORIGIN}
        versions.append(VersionCopy(str(one.name), origin, tags, list(store.aliases(one))))
    return versions
