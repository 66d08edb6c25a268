"""Annotations (boxes, outlines, masks, classes), and their conversion to voxel boxes and label volumes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy  # scipy and skimage load their submodules on first use
import skimage
from jaxtyping import Bool, Float64
from pydantic import BaseModel, ConfigDict, Field

from medmim.data.dataset.manifest import BoxRecord, Split
from medmim.data.dataset.splits import SPLIT_WORDS
from medmim.data.formats.coco_rle import mask_from_runs
from medmim.data.formats.nifti import Image
from medmim.data.formats.overlapping_classes import draw_classes

_MIN_SIDE = 1e-3  # voxels; thinner boxes are empty
MIN_COMPONENT = 8  # voxels; smaller components of a mask are specks of a brush rather than findings
_ELLIPSE_POINTS = 64
_SPLITS = {word: split for word, split in SPLIT_WORDS.items() if len(word) > 2}  # tr and ts mean more
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
OUTLINES_OVERLAP = "outlines_overlap_voxels"  # measurement of an image

Vector = Float64[np.ndarray, "dims"]
Corners = Float64[np.ndarray, "2 dims"]
Unit = Literal["voxel", "share", "mm"]


class Annotation(BaseModel):
    """One finding with its class: a box (first corner, then last), outlines in a plane, or a mask.

    `unit` of the coordinates: voxels, where voxel i spans from i to i + 1; fractions of the picture's size
    (`share`); or mm in LPS, as in DICOM and ITK. `size`: columns and rows of the picture if the file gives
    them. `runs` encode a mask of this size, as `mask_from_runs` reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: Unit = "voxel"
    box: tuple[float, ...] = ()
    outlines: tuple[tuple[tuple[float, float], ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)

    @property
    def is_outlined(self) -> bool:
        """Whether the annotation selects voxels, rather than only a box around them."""
        return bool(self.outlines or self.runs)


class ImageAnnotation(BaseModel):
    """Annotations of one image in a file.

    Attributes:
        image: path below the file's folder, file name (with or without suffix), or series UID.
        target: class of the whole image.
        targets: value of each class, where classes do not exclude each other: 1 present, 0 absent, others as
            in the source; a class without a value is left out.
        group: patient, or whatever must stay in one split.
        split: split that the file gives.
        marks: findings; empty for an image without any.
    """

    model_config = ConfigDict(extra="forbid")

    image: str
    target: str | None = None
    targets: dict[str, float] = Field(default_factory=dict)
    group: str | None = None
    split: Split | None = None
    marks: list[Annotation] = Field(default_factory=list)


class AnnotationFile(BaseModel):
    """Content of an annotation file.

    Attributes:
        kind: format, such as coco; "" for a file without annotations.
        tried: format whose reader found no usable entry, if `kind` is "".
        images: annotations by image.
        classes: class names of a YOLO dataset, by number.
        shared_names: ids of the categories that have one name and annotations, by name.
        splits: folders or list files of a YOLO dataset, by split.
        faults: number of entries that were not used, by reason.
        numbered_classes: number of classes whose names are no plain words and became `class 1`, …
        unread_columns: number of columns of words in a table of boxes without a column of classes.
        class_columns: the column that was read as classes, where it may be the wrong one, with other columns
            whose names stand for classes.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str = ""
    tried: str = ""
    images: list[ImageAnnotation] = Field(default_factory=list)
    classes: list[str] = Field(default_factory=list)
    shared_names: dict[str, list[str]] = Field(default_factory=dict)
    splits: dict[Split, list[str]] = Field(default_factory=dict)
    faults: dict[str, int] = Field(default_factory=dict)
    numbered_classes: int = 0
    unread_columns: int = 0
    class_columns: dict[str, list[str]] = Field(default_factory=dict)

    @property
    def unread(self) -> int:
        """Number of entries that were not used."""
        return sum(self.faults.values())


class EntryError(ValueError):
    """One entry of an annotation file cannot be used; `reason` is counted in `AnnotationFile.faults`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def split_of(words: str) -> Split | None:
    """Return the split that a name such as instances_train.json or a folder names, if any."""
    found = {_SPLITS[word] for word in re.findall(r"[a-z]+", words.lower()) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def corner_box(first: Sequence[Any], last: Sequence[Any]) -> tuple[float, ...]:
    """Return a box from two corners.

    Raises:
        EntryError: with reason malformed, not_finite or empty.
    """
    try:
        low, high = [float(value) for value in first], [float(value) for value in last]
    except (TypeError, ValueError) as error:
        raise EntryError("malformed") from error
    if not all(map(math.isfinite, (*low, *high))):
        raise EntryError("not_finite")
    if len(low) < 2 or any(stop - start <= 0 for start, stop in zip(low, high, strict=True)):
        raise EntryError("empty")
    return (*low, *high)


def outline_of(points: Iterable[Sequence[Any]]) -> tuple[tuple[float, float], ...]:
    """Return an outline from its points.

    Raises:
        EntryError: with reason malformed, not_finite or empty.
    """
    try:
        outline = tuple((float(x), float(y)) for x, y in points)
    except (TypeError, ValueError) as error:
        raise EntryError("malformed") from error
    if not all(math.isfinite(value) for point in outline for value in point):
        raise EntryError("not_finite")
    if len(outline) < 3:
        raise EntryError("empty")
    return outline


@dataclass(frozen=True)
class PlacedAnnotations:
    """Annotations of one image: boxes in voxels with their class, counts, and outlines as a label volume."""

    boxes: tuple[tuple[str, tuple[float, ...]], ...]
    measured: dict[str, float]
    label: Image | None


def ellipse(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> list[tuple[float, float]]:
    """Return the outline of an ellipse.

    Args:
        centre: x and y.
        radii: along x and y before rotation.
        angle: rotation from x towards y, in radians.
    """
    turns = np.linspace(0, 2 * math.pi, _ELLIPSE_POINTS, endpoint=False)
    along, across = radii[0] * np.cos(turns), radii[1] * np.sin(turns)
    x = centre[0] + along * math.cos(angle) - across * math.sin(angle)
    y = centre[1] + along * math.sin(angle) + across * math.cos(angle)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def place_annotations(
    marks: Iterable[Annotation], image: Image, numbers: Mapping[str, int]
) -> PlacedAnnotations:
    """Convert annotations to voxels of an image; count and drop those outside it or of another picture size.

    Where outlines of several classes overlap, the smaller one stays visible.

    Args:
        image: the array as stored and its affine.
        numbers: label value of each class; other classes are not drawn.
    """
    shape = np.array(image.array.shape[:2] if image.array.shape[2] == 1 else image.array.shape, float)
    measured = {"boxes": 0.0, "boxes_clipped": 0.0, "boxes_outside": 0.0}
    boxes = []
    plane = image.array.shape[:2]
    outlined, masks = [], []
    for mark in marks:
        if all(mark.size) and mark.unit == "voxel" and mark.size != plane:
            measured["boxes_of_another_size"] = measured.get("boxes_of_another_size", 0.0) + 1
            continue
        box = _mm_to_voxels(mark, image) if mark.unit == "mm" else _bounding_box(mark, shape)
        clipped = np.clip(box, 0.0, shape)
        if not np.isfinite(box).all() or (clipped[1] - clipped[0]).min() < _MIN_SIDE:
            measured["boxes_outside"] += 1
            continue
        measured["boxes"] += 1
        measured["boxes_clipped"] += float(not np.allclose(box, clipped, rtol=0.0, atol=0.5))
        boxes.append((mark.name, tuple(round(float(value), 3) for value in clipped.ravel())))
        inside = _inside(mark, plane) if mark.is_outlined and mark.name in numbers else None
        outlined.append(inside is not None)
        if inside is not None:
            masks.append((inside[..., None], numbers[mark.name]))
    label = None
    # a label would mark the rest of a finding that has only a box as background
    if outlined and all(outlined):
        drawn, overlap = draw_classes(masks, (*plane, 1))
        label = Image(drawn, image.affine)
        measured |= {OUTLINES_OVERLAP: float(overlap)} if overlap else {}
    return PlacedAnnotations(tuple(boxes), measured, label)


def boxes_from_label(label: Image, names: Mapping[int, str]) -> list[tuple[str, tuple[float, ...]]]:
    """Return a box around each connected component (of at least `MIN_COMPONENT` voxels) of each class.

    Voxels that share a corner are connected.
    """
    dims = 2 if label.array.shape[2] == 1 else 3
    boxes = []
    for number, name in sorted(names.items()):
        components, count = scipy.ndimage.label(label.array == number, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        for size, slices in zip(sizes, scipy.ndimage.find_objects(components), strict=True):
            if size >= MIN_COMPONENT:
                ends = [float(one.start) for one in slices[:dims]] + [
                    float(one.stop) for one in slices[:dims]
                ]
                boxes.append((name, tuple(ends)))
    return boxes


def box_records(boxes: Iterable[Sequence[Any]]) -> tuple[BoxRecord, ...]:
    """Return manifest entries from pairs of class name and box."""
    return tuple(BoxRecord.model_validate({"class": name, "box": tuple(box)}) for name, box in boxes)


def _inside(mark: Annotation, shape: tuple[int, ...]) -> Bool[np.ndarray, "x y"] | None:
    """Return the voxels of an annotation; None for a mask whose size differs from the picture's."""
    if mark.runs:
        return mask_from_runs(mark.runs, mark.size) if mark.size == shape else None
    inside: Bool[np.ndarray, "x y"] = np.zeros(shape, bool)
    for outline in mark.outlines:
        # voxel i spans from i to i + 1, so its centre lies at i + 1/2
        inside |= skimage.draw.polygon2mask(shape, _scaled(outline, mark, np.array(shape, float)) - 0.5)
    return inside


def _bounding_box(mark: Annotation, shape: Vector) -> Corners:
    if mark.runs and not mark.box:
        places = np.argwhere(mask_from_runs(mark.runs, mark.size)).astype(np.float64)
        return np.array([places.min(axis=0), places.max(axis=0) + 1.0]) if len(places) else np.zeros((2, 2))
    points = [point for outline in mark.outlines for point in outline] or np.reshape(mark.box, (2, -1))
    scaled = _scaled(points, mark, shape)
    return np.array([scaled.min(axis=0), scaled.max(axis=0)])


def _scaled(points: Any, mark: Annotation, shape: Vector) -> Float64[np.ndarray, "points dims"]:
    places = np.array(points, np.float64)
    return places * shape if mark.unit == "share" else places


def _mm_to_voxels(mark: Annotation, image: Image) -> Corners:
    """Return the voxel box around all corners of a box in mm."""
    low, high = np.reshape(mark.box, (2, 3))
    corners = np.array([[(low, high)[bit >> axis & 1][axis] for axis in range(3)] for bit in range(8)])
    inverse = np.linalg.inv(image.affine)
    voxels = (corners * _LPS_TO_RAS) @ inverse[:3, :3].T + inverse[:3, 3] + 0.5
    return np.array([voxels.min(axis=0), voxels.max(axis=0)])
