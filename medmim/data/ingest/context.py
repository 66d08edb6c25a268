"""State shared by the steps of an ingestion: options, keys, ledger, staging folder and sandbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.pseudonyms import Keys
from medmim.data.ingest.descriptor import load_descriptor
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.data.ingest.ledger import Ledger
from medmim.data.sandbox.ray_sandbox import RaySandbox
from medmim.data.sandbox.sandbox import Answer, Limits, Sandbox
from medmim.data.sandbox.sandbox_worker import Task

Progress = Callable[[str, int, int], None]
READ_LIMITS = Limits(memory_bytes=8 << 30, cpu_s=300, wall_s=600.0)


@dataclass(frozen=True)
class IngestOptions:
    """Options of `medmim ingest`.

    Attributes:
        labels: folder of label files named `<SeriesInstanceUID>.nii.gz`, outside or inside the source.
        layout: name of a shipped descriptor, or path of a YAML file; detected by default.
        rules: decisions about undescribed layouts: roles of files, patients, classes.
        follow_links: follow symbolic links that lead out of the source.
        splits: splits of the user.
        label_map: name of the series or image of each label file, by name of the label file.
        source_name: name of the source, for datasets of several sources.
        add: add the source to the existing dataset.
        separate_patients: with `add`, equal PatientIDs of two sources are different patients.
        name: name of the dataset; never taken from the source folder.
        workers: number of processes; one per CPU core by default.
        engine: run the processes on this machine or on the nodes of a Ray cluster.
        address: address of the Ray cluster.
        allow_burned_in: accept image types that often show the patient's name in the pixels.
        label_names: name of each class number; overrides the names that the dataset declares.
        resample_labels: resample labels that are not on the grid of their image.
        uneven_spacing: reject stacks of unevenly spaced slices, interpolate them on an even grid, or keep
            their slices as they are.
        time_series: reject NIfTI time series, or make a volume of every time point; frames that may be
            channels are channels, rejected or volumes. By default, these stop the ingestion, and other series
            are rejected.
        ignore_label: value of label voxels that nobody annotated, such as 255 or -1.
        overlap: where classes overlap, keep the smallest one, or keep all as regions: a code for each
            combination of classes.

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
    uneven_spacing: Literal["reject", "regrid", "keep"] = "reject"
    rules: InferenceRules = field(default_factory=InferenceRules)
    follow_links: bool = False
    time_series: Literal["ask", "channels", "reject", "volumes"] = "ask"
    ignore_label: int | None = None
    overlap: Literal["smallest", "regions"] = "smallest"
    splits: Path | None = None
    splits_fold: int = 0
    label_map: Path | None = None
    source_name: str | None = None
    add: bool = False
    separate_patients: bool = False

    def __post_init__(self) -> None:
        if self.layout is not None:
            load_descriptor(self.layout)  # fail before anything is read or written


@dataclass(frozen=True)
class IngestedVolume:
    """A volume in the staging folder that is not part of the dataset yet.

    Attributes:
        volume: its row of the manifest.
        name: the name that a label file of it must have (series UID or file stem); never written anywhere.
        staged: its file in the staging folder.
        staged_label: its label in the staging folder.
        classes: class numbers that occur in the label.
        class_names: class names that came with the label.
        regions: codes of each overlapping class, by its name.
        path: its file below the source, of a DICOM picture the file name; "" for a DICOM series. Like `name`,
            it is never written.
    """

    volume: VolumeRecord
    name: str
    staged: Path
    staged_label: Path | None = None
    classes: tuple[int, ...] = ()
    class_names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True)
class IngestContext:
    """Everything that a step of the ingestion needs.

    `unpacked` maps the path of an archive member in the source (`archive.zip/member`) to its unpacked file.
    """

    keys: Keys
    ledger: Ledger
    staging: Path
    sandbox: Sandbox | RaySandbox
    progress: Progress | None = None
    options: IngestOptions = field(default_factory=IngestOptions)
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
        """Call a function for each task in the sandbox and report progress under the name `phase`.

        Args:
            keep: converts each returned value as soon as it arrives.
        """
        if not tasks:
            return []

        def report(done: int) -> None:
            if self.progress:
                self.progress(phase, done, len(tasks))

        return self.sandbox.run_each(function, tasks, limits=limits, on_done=report, keep=keep)

    @property
    def file_keys(self) -> Keys:
        """Keys of identifiers that come from file names, which are only unique within a source."""
        return self.keys.scoped(self.options.source_name) if self.options.source_name else self.keys

    def file(self, path: Path) -> Path:
        """Return the file to read for a path of the source; archive members are in the staging folder."""
        return self.unpacked.get(path, path)

    def staged(self, name: str) -> Path:
        """Return a path in the staging folder."""
        return self.staging / name


def stored_path(kind: str, subject: str, study: str, identifier: str) -> str:
    """Return the path of a volume or label below the dataset folder."""
    return f"{kind}/{subject}/{study}/{identifier}.nii.gz"


def stem_of(path: Path) -> str:
    """Return a file name without its extension; .nii.gz counts as one extension."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return path.stem if name == path.name else name
