"""The interface for recording a run, and an implementation in memory that tests use instead of MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlencode

NOTE = "mlflow.note.content"  # tag with the description that the page of a run shows
_PICTURES = "pictures"  # folder of the artifacts that descriptions show


@runtime_checkable
class Recorder(Protocol):
    """Records one run: the `Log` of its training, its settings, files and final status.

    It declares what `Log` does, whose module imports PyTorch: commands about runs start without it.
    """

    @property
    def run_id(self) -> str:
        """Identifier of the run."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log metrics at a step."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the whole run."""

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Log a PNG picture at a step; `key` is the same throughout the run."""

    def settings(self, values: Mapping[str, object]) -> None:
        """Store the resolved settings as parameters and, in full, as an artifact."""

    def text(self, name: str, content: str) -> None:
        """Store a text artifact, such as a table in JSON lines."""

    def file(self, path: Path, *, folder: str) -> None:
        """Store a copy of a file as an artifact."""

    def finish(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""


def describe(recorder: Recorder, text: str, picture: Path) -> None:
    """Let the page of a run in the UI start with a description, and a picture if the file exists."""
    if picture.is_file():
        recorder.file(picture, folder=_PICTURES)
        address = urlencode({"path": f"{_PICTURES}/{picture.name}", "run_uuid": recorder.run_id})
        text += f"\n\n![{picture.stem}](get-artifact?{address})"
    recorder.tags({NOTE: text})


@dataclass
class MemoryRecorder:
    """Records a run in lists and dictionaries."""

    run_id: str = "memory"
    all_settings: dict[str, object] = field(default_factory=dict)
    all_tags: dict[str, str] = field(default_factory=dict)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pictures: dict[str, list[bytes]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    status: str = "RUNNING"

    def settings(self, values: Mapping[str, object]) -> None:
        """Record settings."""
        self.all_settings.update(values)

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self.all_tags.update(values)

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Record metrics with their step."""
        self.history.append((step, dict(values)))

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Record a picture."""
        self.pictures.setdefault(key, []).append(png)

    def text(self, name: str, content: str) -> None:
        """Record a text artifact."""
        self.texts[name] = content

    def file(self, path: Path, *, folder: str) -> None:
        """Record the bytes of a file."""
        self.stored[f"{folder}/{path.name}"] = path.read_bytes()

    def finish(self, status: str) -> None:
        """Record the final status."""
        self.status = status
