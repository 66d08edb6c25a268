"""Cases of a layout: the role of every file of a dataset, and what its path implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medmim.data.dataset.manifest import Split


@dataclass(frozen=True)
class LayoutCase:
    """One image and what its path implies; subject, study and group are strings taken from the source.

    Attributes:
        image: file of the image.
        labels: label files, each with its class number, or 0 for a file with its own class numbers; a label
            may belong to several cases.
        subject: the patient.
        study: the visit; images of one visit can be channels of one case.
        group: what must stay in one split.
        modality: DICOM's code.
        tokens: series tokens, such as t1 and post.
        parts: further files with voxels of the image.
        target: class of the whole image.
        targets: value of each class, where classes do not exclude each other.
        healthy: whether `target` means "no finding".
        spacing_mm: pixel spacing of a picture, if it is known.
        subject_by_pixels: whether images with equal pixels count as one patient, because no patient is named.
        split: split that the dataset gives.
        frame: index along the fourth axis of the image file.
        declared_channels: number of channels that the dataset declares.
    """

    image: Path
    labels: tuple[tuple[Path, int], ...]
    subject: str
    study: str
    group: str | None
    modality: str
    tokens: tuple[str, ...]
    parts: tuple[Path, ...] = ()
    target: str | None = None
    healthy: bool = False
    spacing_mm: float | None = None
    subject_by_pixels: bool = False
    split: Split | None = None
    frame: int | None = None
    declared_channels: int = 0
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case."""
        return (self.image, *self.parts, *(path for path, _ in self.labels))


@dataclass(frozen=True)
class DatasetLayout:
    """Roles of the files of a dataset.

    Attributes:
        name: name of the descriptor.
        cases: images with their labels.
        label_names: name of each class number.
        other: reason to skip each file that does not belong to a case.
        notes: other files that may contain annotations.
        promised: whether `notes` must be annotations, because the descriptor names them.
        finding: class of marks without a class.
        arrays: NumPy archives with the names of their classes.
        modality: modality of the images in `arrays`.
        boxes_from_labels: whether connected components of labels become boxes.
        label_like: number of files that look like labels but are not used.
        anonymous: whether every image counts as a patient because no patient is known.
        task: word of the descriptor that begins the names of all images, such as hippocampus, or "".
        regions: label values of each region that a `dataset.json` declares.
        called: name that its `dataset.json` or its folder gives the dataset, or "".
    """

    name: str
    cases: tuple[LayoutCase, ...]
    label_names: dict[int, str]
    other: dict[Path, str]
    notes: tuple[Path, ...] = ()
    promised: bool = False
    finding: str = "finding"
    arrays: dict[Path, dict[int, str]] | None = None
    modality: str = "OT"
    boxes_from_labels: bool = False
    label_like: int = 0
    anonymous: bool = False
    task: str = ""
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    called: str = ""

    @property
    def title(self) -> str:
        """Name of the descriptor with the task where it has several, else the dataset's own, if known."""
        return f"{self.name}-{self.task}" if self.task else self.called or self.name
