"""Where ingestion works: keys, the ledger, a staging folder, a sandbox, and the volumes made so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.ingest.descriptor import load_descriptor
from medmim.data.ingest.ledger import Ledger
from medmim.data.ingest.pseudonyms import Keys
from medmim.data.sandbox.ray_sandbox import RaySandbox
from medmim.data.sandbox.sandbox import Answer, Limits, Sandbox
from medmim.data.sandbox.sandbox_worker import Task

Progress = Callable[[str, int, int], None]
READ_LIMITS = Limits(memory_bytes=8 << 30, cpu_s=300, wall_s=600.0)


@dataclass(frozen=True)
class IngestOptions:
    """What the user of `medmim ingest` may choose.

    Attributes:
        labels: folder with labels called `<SeriesInstanceUID>.nii.gz`; those in the source are found too.
        layout: name of a shipped data set descriptor, or a descriptor file; detected without it.
        name: name of the dataset; never taken from the source's own folder.
        workers: processes at one time; all processors without it.
        engine: where these processes run: on this machine, or on the nodes of a Ray cluster.
        address: of that cluster.
        label_names: name of each class number in labels; rules over the data set's own names.
        resample_labels: bring labels that lie on another grid than their image to it.

    Raises:
        UsageError: for an unknown layout.
    """

    labels: Path | None = None
    layout: str | None = None
    name: str | None = None
    workers: int | None = None
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    allow_burned_in: bool = False
    label_names: Mapping[int, str] = field(default_factory=dict)
    resample_labels: bool = False

    def __post_init__(self) -> None:
        if self.layout is not None:
            load_descriptor(self.layout)  # a wrong name is told before anything is read or written


@dataclass(frozen=True)
class IngestedVolume:
    """A volume in the staging folder, not yet in the dataset.

    `name` is what a label file of it is called (series UID or the image's stem): the source's own text, never
    written. `classes` are the numbers in its label, `class_names` the names that a
    label brought along.
    """

    volume: VolumeRecord
    name: str
    staged: Path
    staged_label: Path | None = None
    classes: tuple[int, ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class IngestContext:
    """What every step of ingestion needs.

    `unpacked` tells where members of archives lie, by their place in the source: `archive.zip/member`.
    """

    keys: Keys
    ledger: Ledger
    staging: Path
    sandbox: Sandbox | RaySandbox
    progress: Progress | None = None
    wishes: IngestOptions = field(default_factory=IngestOptions)
    unpacked: dict[Path, Path] = field(default_factory=dict)

    def each(
        self,
        phase: str,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        limits: Limits | None = None,
        keep: Callable[[Any], Any] | None = None,
    ) -> list[Answer]:
        """Run a function for each task in sandboxes and report progress under the name `phase`.

        Args:
            phase: what is going on, in a word.
            function: as for `Sandbox.run_each`.
            tasks: its arguments, call by call.
            limits: bounds for each call.
            keep: turns each value into what is kept of it.
        """
        if not tasks:
            return []

        def tell(done: int) -> None:
            if self.progress:
                self.progress(phase, done, len(tasks))

        return self.sandbox.run_each(function, tasks, limits=limits, on_done=tell, keep=keep)

    def file(self, path: Path) -> Path:
        """Return where a file of the source can be read: members of archives lie in the staging folder."""
        return self.unpacked.get(path, path)

    def staged(self, name: str) -> Path:
        """Return a path in the staging folder."""
        return self.staging / name


def stored_path(kind: str, subject: str, study: str, identifier: str) -> str:
    """Return where a volume or label lies below the dataset folder."""
    return f"{kind}/{subject}/{study}/{identifier}.nii.gz"


def stem_of(path: Path) -> str:
    """Return an image file's name without its ending; .nii.gz is one ending."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return path.stem if name == path.name else name
