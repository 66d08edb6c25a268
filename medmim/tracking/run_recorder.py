"""Recorder of one run in the MLflow store: settings, metrics, figures and files."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from PIL import Image

_PARAMETER_LIMIT = 250
_MAX_LENGTH = 240  # MLflow accepts at most 250
_NOT_ACCEPTED = re.compile(r"[^\w.\- :]")


class RunRecorder:
    """Records one run in the store (a `Recorder`).

    Args:
        client: of the store.
        run_id: of the run.
        known: keys and steps of points that the run already contains.
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
        """Store scalar settings as parameters (columns of the UI) and all settings as settings.yaml."""
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
        """Store a figure under the same key at every step, so that the UI shows a series."""
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


def stored_names(keys: Iterable[str]) -> dict[str, str]:
    """Return a name that MLflow accepts for each metric key, such as `test/f1_<5 mm`.

    Letters, digits, `_`, `-`, `.`, spaces, colons and the slash after the stage are kept. Every other
    character, which may come from the name of a class, becomes `_`. Names that become equal are numbered.

    Args:
        keys: metric keys that are stored together.
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
