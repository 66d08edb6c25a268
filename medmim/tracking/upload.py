"""Upload copies of runs to an MLflow store exactly once, however often the upload is interrupted.

A tag of each copy contains the id of the original run. The request that creates the copy also sets the tag,
so that the copy can be found even if the response is lost. Later uploads compare the copy with the original
and send only what is missing.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from medmim.tracking.mlflow_recorder import dataset_input
from medmim.tracking.recorder_interface import NOTE
from medmim.tracking.registry_snapshot import create_model, equals
from medmim.tracking.run_copies import RunCopy, VersionCopy
from medmim.tracking.run_ids import ORIGIN
from medmim.tracking.study_runs import PARENT

RECORD = "medmim-copied.json"  # artifact of a copy: path → SHA-256 of each file that was uploaded
_WHOLE = "medmim.copied"  # tag of a complete copy: digest of the original, set last
_VERDICTS = ("contamination", "promoted_by", "promotion_p")
_WEAK = ("control", "failed sanity")  # statuses that are no advantage
# of a run that a store does not have; servers with users answer that the run is not permitted
_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED")
_BATCH = 500  # points per request; servers accept up to 1000


@dataclass
class UploadSummary:
    """Numbers of uploaded items."""

    runs: int = 0
    new_runs: int = 0
    points: int = 0
    artifacts: int = 0
    versions: int = 0


class Uploader:
    """Uploads runs to one store."""

    def __init__(self, client: MlflowClient, experiment: Callable[[str], str]) -> None:
        self.client = client
        self.experiment = experiment
        self.sent = UploadSummary()
        self._ids: dict[str, str] = {}

    def put(self, copy: RunCopy) -> str:
        """Upload a run after its parent; return its id in the store.

        Raises:
            MlflowException: if the store rejects a request; a repeated upload stores nothing twice.
        """
        known = self._find(copy)
        self.sent.runs += 1
        if known is None:
            known = self._create(copy)
            self.sent.new_runs += 1
        run_id = str(known.info.run_id)
        self._ids[copy.origin] = run_id
        if run_id == copy.origin:  # the original itself
            return run_id
        self._artifacts(copy, run_id)
        for version in copy.versions:
            self._version(version, run_id)
        if known.data.tags.get(_WHOLE) == copy.digest:  # models and artifacts can be deleted without a trace
            return run_id
        self.fill(copy, known)
        self.client.set_tag(run_id, _WHOLE, copy.digest)
        return run_id

    def fill(self, copy: RunCopy, known: Run) -> None:
        """Add the values that a run lacks, and set its status."""
        self._values(copy, known)
        self._end(copy, str(known.info.run_id))

    def drop(self, origins: Sequence[str]) -> None:
        """Delete the copies of the given runs."""
        if not origins:
            return
        for origin in origins:
            for run in self.client.search_runs(self._places, filter_string=f"tags.`{ORIGIN}` = '{origin}'"):
                self.client.delete_run(run.info.run_id)

    @functools.cached_property
    def _places(self) -> list[str]:
        """Ids of the experiments that the store has at the first question."""
        return [str(one.experiment_id) for one in self.client.search_experiments()]

    def _find(self, copy: RunCopy) -> Run | None:
        experiment = self.experiment(copy.experiment)
        try:
            own = self.client.get_run(copy.origin)
        except MlflowException as error:
            if error.error_code not in _UNKNOWN:
                raise
        else:
            return own
        # in all experiments, as the one of the copy may have another name now
        places = [experiment, *(place for place in self._places if place != experiment)]
        found = self.client.search_runs(places, filter_string=f"tags.`{ORIGIN}` = '{copy.origin}'")
        first, *others = sorted(found, key=lambda run: run.info.run_id) or [None]
        for other in others:  # two machines uploaded the run at the same time
            self.client.delete_run(other.info.run_id)
        return first

    def _create(self, copy: RunCopy) -> Run:
        tags = {**copy.tags, ORIGIN: copy.origin, **self._parent(copy)}
        experiment = self.experiment(copy.experiment)
        begun = min(copy.start_time, int(time.time() * 1000))  # a copy never claims to be newer than all runs
        return self.client.create_run(experiment, start_time=begun, tags=tags, run_name=copy.name)

    def _parent(self, copy: RunCopy) -> dict[str, str]:
        return {PARENT: self._ids[copy.parent]} if copy.parent in self._ids else {}

    def _values(self, copy: RunCopy, known: Run) -> None:
        """Upload missing parameters, tags, metric points and input datasets."""
        run_id, data = str(known.info.run_id), known.data
        params = [Param(key, value) for key, value in copy.params.items() if key not in data.params]
        tags = {**copy.tags, **self._parent(copy)}
        if NOTE in tags:  # with the address of a picture
            tags[NOTE] = tags[NOTE].replace(copy.origin, run_id)
        changed = [RunTag(key, value) for key, value in tags.items() if data.tags.get(key) != value]
        self.client.log_batch(run_id, params=params, tags=changed)
        there = {
            (key, point.timestamp, point.step, repr(point.value))  # as text, so that NaN equals NaN
            for key in data.metrics
            for point in self.client.get_metric_history(run_id, key)
        }
        points = [
            Metric(key, value, time, step)
            for key, value, time, step in copy.metrics
            if (key, time, step, repr(value)) not in there
        ]
        for begun in range(0, len(points), _BATCH):
            self.client.log_batch(run_id, metrics=points[begun : begun + _BATCH])
        self.sent.points += len(points)
        if copy.datasets and not known.inputs.dataset_inputs:
            self.client.log_inputs(run_id, datasets=[dataset_input(**one) for one in copy.datasets])

    def _artifacts(self, copy: RunCopy, run_id: str) -> None:
        """Upload artifacts that are missing or changed according to the record, then update the record."""
        there = {entry.path for entry in self.client.list_artifacts(run_id)}
        recorded = self._record(run_id) if RECORD in there else {}
        arrived = {path: digest for path, digest in recorded.items() if path.split("/")[0] in there}
        for path, digest in copy.artifacts.items():
            if arrived.get(path) != digest:
                folder = str(Path(path).parent)
                self.client.log_artifact(run_id, str(copy.folder / path), None if folder == "." else folder)
                self.sent.artifacts += 1
        if recorded != dict(copy.artifacts):
            self.client.log_text(run_id, json.dumps(copy.artifacts, sort_keys=True), RECORD)

    def _record(self, run_id: str) -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.client.download_artifacts(run_id, RECORD, folder))
            try:
                return {str(key): str(value) for key, value in json.loads(path.read_text("utf-8")).items()}
            except ValueError:  # a truncated record: upload all artifacts again
                return {}

    def _version(self, version: VersionCopy, run_id: str) -> None:
        """Register a version; its aliases and verdicts become tags `imported_…` without effect."""
        create_model(self.client, version.model)
        tags = {**_without_authority(version), ORIGIN: version.origin}
        # of this copy: versions of a copy that was deleted have lost their weights
        registered = self.client.search_model_versions(
            f"{equals('name', version.model)} and run_id = '{run_id}'"
        )
        known = next((one for one in registered if one.tags.get(ORIGIN) == version.origin), None)
        if known is None:
            source = f"{self.client.get_run(run_id).info.artifact_uri}/model"
            self.client.create_model_version(version.model, source, run_id, tags=tags, await_creation_for=0)
            self.sent.versions += 1
            return
        for key, value in tags.items():
            if known.tags.get(key) != value:
                self.client.set_model_version_tag(version.model, known.version, key, value)

    def _end(self, copy: RunCopy, run_id: str) -> None:
        if copy.end_time:
            self.client.set_terminated(run_id, status=copy.status, end_time=copy.end_time)
        else:
            self.client.update_run(run_id, status=copy.status)


def _without_authority(version: VersionCopy) -> dict[str, str]:
    """Return the tags of a version; aliases and verdicts of the other store are prefixed `imported_`."""
    verdicts = _VERDICTS if version.tags.get("status") in _WEAK else (*_VERDICTS, "status")
    tags = {f"imported_{key}" if key in verdicts else key: value for key, value in version.tags.items()}
    return {**tags, **({"imported_aliases": ",".join(version.aliases)} if version.aliases else {})}
