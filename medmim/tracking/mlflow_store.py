"""The local MLflow store: SQLite and artifacts below one home folder; runs, their pictures, the registry.

Nothing that could tell who a patient is goes in: no path, file name, patient key or error text. MLflow's own
habits of noting user, script and git address are overruled, its telemetry is off.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse
from urllib.request import url2pathname

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints SQL with its values

import yaml  # noqa: E402  # after the switches above: MLflow reads them when it is imported
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import (  # noqa: E402
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException  # noqa: E402
from PIL import Image  # noqa: E402

from medmim import files  # noqa: E402
from medmim.errors import RunError  # noqa: E402
from medmim.tracking.metric_names import stored_names  # noqa: E402

_ANONYMOUS = {"mlflow.user": "medmim", "mlflow.source.name": "medmim", "mlflow.source.type": "LOCAL"}
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens its table of runs
ORIGIN = "medmim.run"  # on a copy: the id of the run where it was made
_PARAMETER_LIMIT = 250
_DIGEST_LENGTH = 36  # the longest that MLflow keeps


class Store:
    """The store of one home folder.

    Args:
        home: `MEDMIM_HOME`; made when missing.

    Raises:
        RunError: if it is no folder, and none can be made there.
    """

    def __init__(self, home: Path) -> None:
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"MEDMIM_HOME '{home}': expected a folder, or a place for one, got "
                f"'{error.strerror}'; set MEDMIM_HOME to a folder that you may write to"
            ) from error
        self.home = home.resolve()
        with files.lock(self.home):  # whoever comes first makes the tables; MLflow does not wait for another
            self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @property
    def uri(self) -> str:
        """Address of the database, as MLflow wants it."""
        return f"sqlite:///{quote(str(self.home / 'mlflow.db'))}"  # the path is part of a URL

    @property
    def artifacts(self) -> Path:
        """Where artifacts lie."""
        return self.home / "artifacts"

    def checkpoints(self, run_id: str) -> Path:
        """Return the folder of a run's weights and state."""
        return self.home / "checkpoints" / run_id

    def begin(self, *, experiment: str, name: str, tags: Mapping[str, str]) -> RunRecorder:
        """Begin a run and return its recorder."""
        where = self.experiment(experiment)
        run = self.client.create_run(where, run_name=name, tags={**_ANONYMOUS, **tags})
        if "dataset_hash" in tags:
            self._note_dataset(run.info.run_id, tags)
        return RunRecorder(self.client, run.info.run_id)

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made when missing; its artifacts lie in the home folder."""
        with files.lock(self.home):
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            place = (self.artifacts / name).as_uri()
            return str(self.client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_TAGS))

    def _note_dataset(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Log the dataset as MLflow's own kind of input: the UI then lists the runs that used it."""
        dataset = Dataset(
            name=tags["dataset"],
            digest=tags["dataset_hash"][:_DIGEST_LENGTH],
            source_type="medmim",
            source=json.dumps({"content_hash": tags["dataset_hash"]}),
        )
        context = InputTag("mlflow.data.context", tags.get("stage", "study"))
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[context])])

    def resume(self, run_id: str, *, keep_points: bool = False) -> RunRecorder:
        """Continue a run.

        Args:
            run_id: of the run.
            keep_points: do not log a metric again at a step where it is: a training goes on from its last
                saved state, after which it had logged more. A study's summary is replaced instead.
        """
        run = self.run(run_id)
        self.client.update_run(run_id, status="RUNNING")
        keys = run.data.metrics if keep_points else ()
        known = {(key, point.step) for key in keys for point in self.client.get_metric_history(run_id, key)}
        return RunRecorder(self.client, run_id, known)

    def run(self, run_id: str) -> Run:
        """Return a run by its id here or, of an unpacked study, by that where it was made.

        Raises:
            RunError: if there is none with this id.
        """
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            copies = self.runs(**{ORIGIN: run_id}) if run_id.isalnum() else []
            if copies:
                return copies[0]
            raise RunError(
                f"no run '{run_id}' in this home folder: see `medmim ui`, or set MEDMIM_HOME to where it is"
            ) from error

    def find_run(self, run_id: str) -> Run | None:
        """Return a run as `run` does; None where there is none or no id is given."""
        try:
            return self.run(run_id) if run_id else None
        except RunError:
            return None

    def runs(self, **tags: str) -> list[Run]:
        """Return the runs with these tags, newest first."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        words = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                experiments,
                filter_string=" and ".join(words),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def artifact(self, run: Run, name: str = "") -> Path:
        """Return where an artifact of a run lies, or would lie; all of them without a name."""
        return Path(url2pathname(urlparse(str(run.info.artifact_uri)).path)) / name

    def read_text(self, run: Run, name: str, *, default: str | None = None) -> str:
        """Return a text artifact of a run.

        Args:
            run: of this store.
            name: of the artifact.
            default: is returned where the run does not have it.

        Raises:
            RunError: if the run does not have it and there is no default.
        """
        path = self.artifact(run, name)
        if not path.is_file() and default is not None:
            return default
        if not path.is_file():
            raise RunError(f"run {run.info.run_id} has no artifact '{name}': it may not have finished")
        return path.read_text(encoding="utf-8")

    def register(self, *, model: str, run_id: str, tags: Mapping[str, str], alias: str) -> int:
        """Make the run's artifact folder `model` a new version of a registered model; return its number."""
        try:
            self.client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self.client.search_model_versions(f"name = '{model}' and run_id = '{run_id}'")
        if known:  # registered before the run was interrupted
            return int(known[0].version)
        info = self.run(run_id).info
        logged = self.client.create_logged_model(
            info.experiment_id, name=model, source_run_id=run_id, tags=dict(tags), model_type="medmim"
        )
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
        return int(version.version)

    def discard(self, run_id: str) -> None:
        """Mark a run as deleted and remove its files: it left nothing to continue."""
        self.client.delete_run(run_id)
        shutil.rmtree(self.checkpoints(run_id), ignore_errors=True)

    def deleted(self) -> list[str]:
        """Return the ids of runs that were made here and have been deleted."""
        places = [one.experiment_id for one in self.client.search_experiments()]
        found = self.client.search_runs(places, run_view_type=ViewType.DELETED_ONLY)
        return [str(run.info.run_id) for run in found if ORIGIN not in run.data.tags]

    def note_score(self, run_id: str, key: str, value: float) -> None:
        """Add a later score to a finished run, such as a fine-tuning's Dice to its pretraining.

        A run that lives in another home folder is left alone.
        """
        try:
            self.client.get_run(run_id)
        except MlflowException:
            return
        self.client.log_metric(run_id, key, value, step=0)


class RunRecorder:
    """Records one run in the store (a `Recorder`).

    Args:
        client: of the store.
        run_id: of the run.
        known: keys and steps of points that are there.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, known: AbstractSet[tuple[str, int]] = frozenset()
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._known = known

    @property
    def run_id(self) -> str:
        """Identifier of the run."""
        return self._run_id

    def settings(self, values: Mapping[str, object]) -> None:
        """Store single values as parameters (for the UI's columns) and everything as settings.yaml."""
        plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
        params = [Param(key, _short(value)) for key, value in plain.items()]
        self._client.log_batch(self._run_id, params=params)
        self.text("settings.yaml", yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=True))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Store metrics at a step."""
        now = int(time.time() * 1000)
        named = stored_names(values)
        stored = [(named[key], value) for key, value in values.items()]
        new = [(key, value) for key, value in stored if (key, step) not in self._known]
        points = [Metric(key, float(value), now, step) for key, value in new]
        self._client.log_batch(self._run_id, metrics=points)

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Store a picture under one key for all steps, so that the UI shows it as a series."""
        with Image.open(io.BytesIO(png)) as image:
            self._client.log_image(self._run_id, image.convert("RGB"), key=key, step=step)

    def text(self, name: str, content: str) -> None:
        """Store a text artifact."""
        self._client.log_text(self._run_id, content, name)

    def file(self, path: Path, *, folder: str) -> None:
        """Store a copy of a file."""
        self._client.log_artifact(self._run_id, str(path), folder)

    def finish(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id, status=status)


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:_PARAMETER_LIMIT]
