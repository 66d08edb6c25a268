"""The local MLflow store of runs and registered models: an SQLite database and artifacts in a home folder.

The store contains nothing that could identify a patient: no path, file name, patient key or error text. The
MLflow defaults that record the user, script and git address are overridden.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from medmim import files
from medmim.errors import RunError
from medmim.tracking.artifact_addresses import experiment_of
from medmim.tracking.database import DATABASE, opened, uri_of
from medmim.tracking.migration import check, prepare
from medmim.tracking.mlflow_recorder import MlflowRecorder, dataset_input, restore_run
from medmim.tracking.registry_snapshot import create_model, equals, write_snapshot
from medmim.tracking.run_files import RECORD, RunRecord, inside, link_files
from medmim.tracking.run_ids import ORIGIN, RunOption, candidates_of
from medmim.tracking.ui_views import color_of

_ANONYMOUS = {"mlflow.user": "medmim", "mlflow.source.name": "medmim", "mlflow.source.type": "LOCAL"}
FINISHED = "attributes.status = 'FINISHED'"
RESTORE = (
    "restore it from a copy of the home folder, or delete the run (in `medmim ui` if it has a registered "
    "model), and its study trains it again"
)
_COLOR = "mlflow.runColor"
_PAGE = 1000
_DIGEST_LENGTH = 36  # longest digest that MLflow stores


class Store:
    """The store of one home folder.

    Args:
        home: `MEDMIM_HOME`; created if it does not exist.
        reading: open an existing store without creating or migrating it.

    Raises:
        RunError: if the home folder or its database cannot be used.
    """

    def __init__(self, home: Path, *, reading: bool = False) -> None:
        self.home = home.resolve()
        if reading:
            check(home)
            self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            return
        try:
            files.private_folder(home)
        except OSError as error:
            raise RunError(
                f"MEDMIM_HOME '{home}': expected a folder, or a path where one can be created, got "
                f"'{error.strerror}'; set MEDMIM_HOME to a folder that you may write to"
            ) from error
        with files.lock(self.home):  # MLflow cannot create its first experiment in two processes at once
            prepare(self.home)
            self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def uri(self) -> str:
        """URI of the database."""
        return uri_of(self.home / DATABASE)

    @property
    def artifacts(self) -> Path:
        """Folder of the artifacts."""
        return self.home / "artifacts"

    def checkpoints(self, run_id: str) -> Path:
        """Return the folder of the weights and training states of a run."""
        return self.home / "checkpoints" / run_id

    def begin(self, *, experiment: str, name: str, tags: Mapping[str, str]) -> MlflowRecorder:
        """Start a run and return its recorder."""
        where = self.experiment(experiment)
        # later than every other run, even if the clock was set back
        [(newest,)] = self._query("SELECT coalesce(max(start_time), 0) FROM runs")
        begun = max(int(time.time() * 1000), newest + 1)
        color = {_COLOR: color_of(tags["arm"])} if "arm" in tags else {}
        run = self.client.create_run(where, begun, {**_ANONYMOUS, **color, **tags}, name)
        if "dataset_hash" in tags:
            self._note_dataset(run.info.run_id, tags)
        head = {"experiment": experiment, "name": name, "start_time": run.info.start_time}
        self.record(run.info.run_id).add(run=head, tags=dict(run.data.tags))
        return self.recorder(run.info.run_id)

    def recorder(self, run_id: str, known: AbstractSet[tuple[str, int]] = frozenset()) -> MlflowRecorder:
        """Return the recorder of a run; `known` as in `MlflowRecorder`."""
        return MlflowRecorder(self.client, run_id, self.record(run_id), known)

    def record(self, run_id: str) -> RunRecord:
        """Return the record of a run in its folder."""
        return RunRecord(self.checkpoints(run_id) / RECORD)

    def experiment(self, name: str) -> str:
        """Return the id of an experiment; create or restore it if needed."""
        with files.lock(self.home):
            return experiment_of(self.client, name, self.home)

    def _note_dataset(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Log the dataset as an MLflow input, so that the UI lists the runs that used it."""
        content_hash = tags["dataset_hash"]
        used = dataset_input(
            name=tags["dataset"],
            digest=content_hash[:_DIGEST_LENGTH],
            source=json.dumps({"content_hash": content_hash}),
            context=tags.get("stage", "study"),
        )
        self.client.log_inputs(run_id, datasets=[used])

    def resume(self, run_id: str, *, keep_points: bool = False) -> MlflowRecorder:
        """Resume a run and return its recorder.

        Args:
            keep_points: skip metrics at steps that already have a value, because a training repeats the steps
                after its last saved state. The summary of a study is replaced instead.
        """
        run = self.run(run_id)
        restore_run(self.client, run_id)
        self.client.update_run(run_id, status="RUNNING")
        keys = run.data.metrics if keep_points else ()
        known = {(key, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)}
        return self.recorder(run_id, known)

    def run(self, run_id: str) -> Run:
        """Return a run by its id in this store or, if it is a copy, by the id of the original run."""
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            copies = self.tagged(ORIGIN, (run_id,))
            if copies:
                return copies[0]
            raise RunError(
                f"no run '{run_id}' in this home folder: list them with `medmim runs`, or set "
                "MEDMIM_HOME to the folder that contains it"
            ) from error

    def find_run(self, run_id: str) -> Run | None:
        """Return a run by its id; None if it does not exist or the id is empty."""
        try:
            return self.run(run_id) if run_id else None
        except RunError:
            return None

    def named(self, word: str, option: RunOption) -> Run:
        """Return the run that a word names: by its id or the beginning of it, or by the id of its original.

        Raises:
            RunError: if there is none, more than one, or one that the option does not take.
        """
        return self.client.get_run(option.only(word, candidates_of(self._query, word), self.run_ids))

    def runs(self, *conditions: str, limit: int | None = None, **tags: str) -> list[Run]:
        """Return the runs with these tags and MLflow conditions, such as `FINISHED`, newest first."""
        active = "SELECT experiment_id FROM experiments WHERE lifecycle_stage = 'active'"
        places = [str(place) for (place,) in self._query(active)]
        conditions += tuple(equals(f"tags.`{key}`", value) for key, value in tags.items())
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                places,
                filter_string=" and ".join(conditions),
                max_results=limit or _PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found.extend(run for run in page if tags.items() <= run.data.tags.items())
            token = page.token
            if not token or (limit and len(found) >= limit):
                return found[:limit]

    def tagged(self, key: str, values: Collection[str]) -> list[Run]:
        """Return the runs whose tag has one of these values, newest first, by one query."""
        query = (
            "SELECT tags.run_uuid, tags.value FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid "
            "WHERE tags.key = ? AND runs.lifecycle_stage = 'active' ORDER BY runs.start_time DESC"
        )
        ids = [run_id for run_id, value in self._query(query, key) if value in values]
        return [self.client.get_run(run_id) for run_id in ids]

    def artifact(self, run: Run, name: str = "") -> Path:
        """Return the path of an artifact, which may not exist; without a name, the artifact folder."""
        return inside(self.home, str(run.info.artifact_uri)) / name

    def read_text(self, run: Run, name: str, *, default: str | None = None) -> str:
        """Return a text artifact of a run."""
        path = self.artifact(run, name)
        if not path.is_file() and default is not None:
            return default
        if not path.is_file():
            raise RunError(
                f"run {run.info.run_id} ({run.info.status.lower()}) has no artifact '{name}': {RESTORE}"
            )
        return path.read_text(encoding="utf-8")

    def register(self, *, model: str, run_id: str, tags: Mapping[str, str], alias: str) -> int:
        """Register the artifact folder `model` of a run as a new model version; return the version number."""
        create_model(self.client, model)
        for known in self.client.search_model_versions(f"{equals('name', model)} and run_id = '{run_id}'"):
            return int(known.version)  # registered before an interruption
        if restore_run(self.client, run_id) == "gone":
            raise RunError(
                f"run {run_id} finished, but was removed from the store and cannot be registered: its "
                f"weights are in '{self.checkpoints(run_id)}', which `--model` accepts"
            )
        run = self.run(run_id)
        info = run.info
        logged = self.client.create_logged_model(
            info.experiment_id, name=model, source_run_id=run_id, tags=dict(tags), model_type="medmim"
        )
        link_files(self.artifact(run, "model"), inside(self.home, str(logged.artifact_location)))
        self.client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        version = self.client.create_model_version(
            model,
            source=f"{info.artifact_uri}/model",
            run_id=run_id,
            tags=dict(tags),
            model_id=logged.model_id,
        )
        self.client.set_registered_model_alias(model, alias, version.version)
        self.note_registry()
        return int(version.version)

    def aliases(self, version: ModelVersion) -> tuple[str, ...]:
        """Return the aliases of a version, such as champion."""
        known = self.client.get_registered_model(version.name).aliases
        return tuple(sorted(alias for alias, number in known.items() if str(number) == str(version.version)))

    def note_registry(self) -> None:
        """Copy the registry to the home folder, from which `doctor --repair` can rebuild it."""
        write_snapshot(self.home)

    def discard(self, run_id: str) -> None:
        """Delete a run that has no resumable state, and its checkpoints."""
        self.client.delete_run(run_id)
        shutil.rmtree(self.checkpoints(run_id), ignore_errors=True)

    def deleted(self) -> list[str]:
        """Return the ids of deleted runs, except those of copies."""
        query = (
            "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'deleted' AND NOT EXISTS (SELECT 1 FROM tags "
            "WHERE tags.run_uuid = runs.run_uuid AND tags.key = ?)"
        )
        return [str(run_id) for (run_id,) in self._query(query, ORIGIN)]

    def run_ids(self) -> list[str]:
        """Return the ids of all runs that are not deleted."""
        active = "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'"
        return [str(run_id) for (run_id,) in self._query(active)]

    def _query(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with opened(self.home / DATABASE) as connection:
            return connection.execute(query, values).fetchall()

    def note_score(self, run_id: str, key: str, value: float) -> None:
        """Add a score to a finished run, such as the Dice of a fine-tuning to its pretraining.

        A run that is not in this store, or was deleted, is ignored.
        """
        try:
            if self.client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
                return
        except MlflowException:
            return
        self.recorder(run_id).metrics({key: value}, step=0)
