"""Rebuilding the local store from its newest intact backup and the records in the run folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from medmim import files
from medmim.tracking.artifact_addresses import experiment_of, relocate
from medmim.tracking.database import (
    DATABASE,
    copy_database,
    create,
    is_intact,
    is_older,
    opened,
    staged,
    upgrade,
    uri_of,
)
from medmim.tracking.migration import BACKUPS, backups
from medmim.tracking.mlflow_store import Store
from medmim.tracking.registry_snapshot import restore_snapshot, write_snapshot
from medmim.tracking.run_copies import RunCopy
from medmim.tracking.run_files import RunRecord, records
from medmim.tracking.upload import Uploader


@dataclass(frozen=True)
class RebuildSummary:
    """What a rebuilt store consists of.

    Attributes:
        backup: that was restored; None if there was none.
        runs: number of runs whose records were read.
        versions: number of model versions that were registered again.
        kept: copy of the database as it was found; None if there was none.
    """

    backup: Path | None
    runs: int
    versions: int
    kept: Path | None


def rebuild(home: Path) -> RebuildSummary:
    """Replace the database by its newest intact backup, completed from the records of the runs."""
    path, home = home.resolve() / DATABASE, home.resolve()
    base = next((one for one in backups(home) if is_intact(one)), None)
    with files.lock(home):
        kept = _keep(path)
        with staged(path) as new:
            if base:
                copy_database(base, new)
            else:
                create(new)
            if is_older(new):
                upgrade(new)
            client = MlflowClient(tracking_uri=uri_of(new), registry_uri=uri_of(new))
            copies = [copy for one in records(home) if (copy := _read(one))]
            uploader = Uploader(client, lambda name: experiment_of(client, name, home))
            for copy in copies:
                _restore(uploader, copy, new)
            versions = restore_snapshot(client, home)
        relocate(home)
    return RebuildSummary(base, len(copies), versions, kept)


def write_missing_records(store: Store) -> int:
    """Write records for runs that have none, such as those of older versions; return how many."""
    missing = [run_id for run_id in store.run_ids() if not store.record(run_id).path.exists()]
    for run_id in missing:
        _write(store, store.run(run_id))
    write_snapshot(store.home)
    return len(missing)


def _write(store: Store, run: Run) -> None:
    info, record = run.info, store.record(run.info.run_id)
    experiment = store.client.get_experiment(info.experiment_id).name
    record.add(
        run={"experiment": experiment, "name": info.run_name, "start_time": info.start_time},
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )
    for key in run.data.metrics:
        for point in store.client.get_metric_history(info.run_id, key):
            record.add(metrics={key: point.value}, step=point.step, time=point.timestamp)
    if info.end_time:
        record.add(status=info.status, time=info.end_time)


def _read(path: Path) -> RunCopy | None:
    """Return the values in a record; None if even its first line is incomplete."""
    head: Mapping[str, Any] = {}
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    points, status, ended = [], "RUNNING", 0
    for entry in RunRecord(path).entries():
        head = entry.get("run", head)
        params |= entry.get("params", {})
        tags |= entry.get("tags", {})
        for key, value in entry.get("metrics", {}).items():
            points.append((key, float(value), entry["time"], entry["step"]))
        if "status" in entry:
            status, ended = entry["status"], entry["time"]
    if not head:
        return None
    return RunCopy(
        origin=path.parent.name,
        parent="",  # a tag, as ids stay the same
        **head,
        status=status,
        end_time=ended,
        params=params,
        tags=tags,
        metrics=points,
        datasets=(),
        versions=(),
        artifacts={},
        folder=path.parent,
    )


def _restore(uploader: Uploader, copy: RunCopy, database: Path) -> None:
    """Add a run under its id, or complete it."""
    place = uploader.client.get_experiment(uploader.experiment(copy.experiment))
    try:
        run = uploader.client.get_run(copy.origin)
    except MlflowException:
        address = f"{place.artifact_location}/{copy.origin}/artifacts"
        with opened(database) as connection, connection:
            connection.execute(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, "
                "status, start_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES (?, ?, 'LOCAL', '', '', 'medmim', 'RUNNING', ?, '', 'active', ?, ?)",
                (copy.origin, copy.name, copy.start_time, address, int(place.experiment_id)),
            )
        run = uploader.client.get_run(copy.origin)
    if run.info.lifecycle_stage == "active":
        uploader.fill(copy, run)


def _keep(path: Path) -> Path | None:
    if not path.exists():
        return None
    folder = files.private_folder(path.parent / BACKUPS)
    kept = folder / f"damaged-{1 + len(list(folder.glob('damaged-*'))):04d}.db"
    shutil.copyfile(path, kept)
    return kept
