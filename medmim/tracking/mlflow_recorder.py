"""Recorder of one run in the MLflow store: settings, metrics, figures and files."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

import yaml
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from PIL import Image

from medmim import files
from medmim.tracking.run_files import RunRecord

_LOG = logging.getLogger(__name__)
_PARAMETER_LIMIT = 250
_MAX_LENGTH = 240  # MLflow accepts at most 250
_NOT_ACCEPTED = re.compile(r"[^\w.\- :]")


class MlflowRecorder:
    """Records one run in the store (a `Recorder`)."""

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        record: RunRecord,
        known: AbstractSet[tuple[str, int]] = frozenset(),
    ) -> None:
        self._client = client
        self._record = record
        self._run_id = run_id
        self._known = known
        self._gone = False

    @property
    def run_id(self) -> str:
        """Identifier of the run."""
        return self._run_id

    def settings(self, values: Mapping[str, object]) -> None:
        """Store scalar settings as parameters (columns of the UI) and all settings as settings.yaml."""
        self.params({key: value for key, value in values.items() if not isinstance(value, dict)})
        self.text("settings.yaml", yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=True))

    def params(self, values: Mapping[str, object]) -> None:
        """Store scalar values as parameters."""
        short = {key: _short(value) for key, value in values.items()}
        self._record.add(params=short)
        params = [Param(*pair) for pair in short.items()]
        self._send(lambda: self._client.log_batch(self._run_id, params=params))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._record.add(tags=dict(values))
        tags = [RunTag(key, value) for key, value in values.items()]
        self._send(lambda: self._client.log_batch(self._run_id, tags=tags))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Store metrics at a step."""
        now = int(time.time() * 1000)
        named = stored_names(values)
        stored = [(named[key], value) for key, value in values.items()]
        new = {key: float(value) for key, value in stored if (key, step) not in self._known}
        points = [Metric(key, value, now, step) for key, value in new.items()]
        self._record.add(metrics=new, step=step, time=now)
        self._send(lambda: self._client.log_batch(self._run_id, metrics=points))

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Store a figure under the same key at every step, so that the UI shows a series."""
        with Image.open(io.BytesIO(png)) as image:
            picture = image.convert("RGB")
        self._send(lambda: self._client.log_image(self._run_id, picture, key=key, step=step))

    def text(self, name: str, content: str) -> None:
        """Store a text artifact."""
        self._send(lambda: self._client.log_text(self._run_id, content, name))

    def file(self, path: Path, *, folder: str) -> None:
        """Store a file as an artifact: in a local store as a hard link, since weights are large."""
        self._send(lambda: self._link(path, folder))

    def _link(self, path: Path, folder: str) -> None:
        place = urlparse(str(self._client.get_run(self._run_id).info.artifact_uri))
        if place.scheme == "file":
            files.link_or_copy(path, Path(url2pathname(place.path)) / folder / path.name)
        else:
            self._client.log_artifact(self._run_id, str(path), folder)

    def finish(self, status: str) -> None:
        """End the run."""
        self._record.add(status=status, time=int(time.time() * 1000))
        self._send(lambda: self._client.set_terminated(self._run_id, status=status))

    def _send(self, send: Callable[[], object]) -> None:
        """Send to the store; restore the run if it was deleted meanwhile, so that no training is lost."""
        if self._gone:
            return
        try:
            send()
        except MlflowException:
            found = restore_run(self._client, self._run_id)
            if found == "active":
                raise
            self._gone = found == "gone"
            if self._gone:
                _LOG.warning("run %s was removed from the store; its folder keeps its record", self._run_id)
            else:
                send()


def restore_run(client: MlflowClient, run_id: str) -> Literal["active", "restored", "gone"]:
    """Restore a run and its experiment if they were deleted; return what was found."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return "gone"
        raise
    experiment = client.get_experiment(run.info.experiment_id)
    if LifecycleStage.DELETED not in (run.info.lifecycle_stage, experiment.lifecycle_stage):
        return "active"
    restore_experiment(client, experiment)
    if client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_run(run_id)
        _LOG.warning("run %s had been deleted: restored", run_id)
    return "restored"


def restore_experiment(client: MlflowClient, experiment: Experiment) -> None:
    """Restore an experiment if it was deleted."""
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment.experiment_id)
        _LOG.warning("experiment '%s' had been deleted: restored with its runs", experiment.name)


def dataset_input(*, name: str, digest: str, source: str, context: str) -> DatasetInput:
    """Return a dataset as the input of a run in MLflow; the context is its stage."""
    return DatasetInput(
        Dataset(name, digest, "medmim", source), tags=[InputTag("mlflow.data.context", context)]
    )


def stored_names(keys: Iterable[str]) -> dict[str, str]:
    """Return a name that MLflow accepts for each metric key, such as `test/f1_<5 mm`.

    Letters, digits, `_`, `-`, `.`, spaces, colons and the slash after the stage are kept. Every other
    character, which may come from the name of a class, becomes `_`. Names that become equal are numbered.
    """
    wanted = list(keys)
    taken = {key for key in wanted if _plain(key) == key}
    found: dict[str, str] = {}
    for key in wanted:
        name, number = _plain(key), 1
        while name != key and name in taken:
            number += 1
            name = f"{_plain(key)}_{number}"
        taken.add(name)
        found[key] = name
    return found


def _plain(key: str) -> str:
    stage, slash, rest = key.partition("/")
    return f"{stage}{slash}{_NOT_ACCEPTED.sub('_', rest)}"[:_MAX_LENGTH].strip()


def _short(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text[:_PARAMETER_LIMIT]
