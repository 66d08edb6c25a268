"""Boxes and outlines that people drew, in voxels of a stored array: clipped to it, filled in as labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy  # this and the next load their parts when they are used
import skimage
from jaxtyping import Bool, Float64, UInt16
from pydantic import BaseModel, ConfigDict

from medmim.data.dataset.manifest import BoxRecord
from medmim.data.formats.coco_rle import mask_from_runs
from medmim.data.formats.nifti import Image

_LEAST = 1e-3  # voxels; a box that is thinner holds nothing
LEAST_PART = 8  # voxels; smaller parts of a mask are specks of a brush, hardly findings
_CORNERS = 64
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])

Vector = Float64[np.ndarray, "dims"]
Corners = Float64[np.ndarray, "2 dims"]
Unit = Literal["voxel", "share", "mm"]


class Annotation(BaseModel):
    """One finding: a box (first corner, then last) or outlines (points in a plane), and its class.

    `unit` tells what coordinates count: voxels, where voxel i spans from i to i + 1; shares of the picture's
    size; or mm in LPS, as in DICOM and ITK. `runs` are a mask as `run_lengths` reads it, and `size` are its
    columns and rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    unit: Unit = "voxel"
    box: tuple[float, ...] = ()
    outlines: tuple[tuple[tuple[float, float], ...], ...] = ()
    runs: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)

    @property
    def drawn(self) -> bool:
        """Whether it tells which voxels it means, not just where they are."""
        return bool(self.outlines or self.runs)


@dataclass(frozen=True)
class PlacedAnnotations:
    """Marks in one image: boxes in voxels with their class, what was measured, outlines as a label."""

    boxes: tuple[tuple[str, tuple[float, ...]], ...]
    measured: dict[str, float]
    label: Image | None


def ellipse(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> list[tuple[float, float]]:
    """Return an outline of an ellipse.

    Args:
        centre: x and y.
        radii: along x and y before turning.
        angle: turn from x towards y, in radians.
    """
    turns = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
    along, across = radii[0] * np.cos(turns), radii[1] * np.sin(turns)
    x = centre[0] + along * math.cos(angle) - across * math.sin(angle)
    y = centre[1] + along * math.sin(angle) + across * math.cos(angle)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def place_annotations(
    marks: Iterable[Annotation], image: Image, numbers: Mapping[str, int]
) -> PlacedAnnotations:
    """Bring marks to the voxels of an image; those wholly outside of it are counted and left out.

    Args:
        marks: of this image.
        image: the array as stored and its place in space.
        numbers: number of each class in the label; a class without one is not drawn.
    """
    shape = np.array(image.array.shape[:2] if image.array.shape[2] == 1 else image.array.shape, float)
    measured = {"boxes": 0.0, "boxes_clipped": 0.0, "boxes_outside": 0.0}
    boxes = []
    drawn: UInt16[np.ndarray, "x y"] = np.zeros(image.array.shape[:2], np.uint16)
    outlined = []
    for mark in marks:
        box = _box_mm(mark, image) if mark.unit == "mm" else _box_around(mark, shape)
        clipped = np.clip(box, 0.0, shape)
        if not np.isfinite(box).all() or (clipped[1] - clipped[0]).min() < _LEAST:
            measured["boxes_outside"] += 1
            continue
        measured["boxes"] += 1
        measured["boxes_clipped"] += float(not np.allclose(box, clipped, rtol=0.0, atol=0.5))
        boxes.append((mark.name, tuple(round(float(value), 3) for value in clipped.ravel())))
        inside = _inside(mark, drawn.shape) if mark.drawn and mark.name in numbers else None
        outlined.append(inside is not None)
        if inside is not None:
            drawn[inside] = numbers[mark.name]
    # with a finding that is only boxed, a label would call the rest of that finding healthy
    label = Image(drawn[..., None], image.affine) if outlined and all(outlined) else None
    return PlacedAnnotations(tuple(boxes), measured, label)


def boxes_around(label: Image, names: Mapping[int, str]) -> list[tuple[str, tuple[float, ...]]]:
    """Return a box around each connected part of each class, of parts of at least `LEAST_PART` voxels.

    Voxels that share a corner are connected.
    """
    dims = 2 if label.array.shape[2] == 1 else 3
    found = []
    for number, name in sorted(names.items()):
        parts, count = scipy.ndimage.label(label.array == number, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        for size, place_annotations in zip(sizes, scipy.ndimage.find_objects(parts), strict=True):
            if size >= LEAST_PART:
                corners = [
                    [one.start for one in place_annotations[:dims]],
                    [one.stop for one in place_annotations[:dims]],
                ]
                found.append((name, tuple(float(value) for corner in corners for value in corner)))
    return found


def boxes_of(found: Iterable[Sequence[Any]]) -> tuple[BoxRecord, ...]:
    """Return boxes as the manifest keeps them, from their JSON form."""
    return tuple(BoxRecord.model_validate({"class": name, "box": tuple(box)}) for name, box in found)


def _inside(mark: Annotation, shape: tuple[int, ...]) -> Bool[np.ndarray, "x y"] | None:
    """Return the voxels that a mark means; None for a mask of another size than its picture."""
    if mark.runs:
        return mask_from_runs(mark.runs, mark.size) if mark.size == shape else None
    inside: Bool[np.ndarray, "x y"] = np.zeros(shape, bool)
    for outline in mark.outlines:
        # voxel i spans from i to i + 1, so its centre lies at i + 1/2
        inside |= skimage.draw.polygon2mask(shape, _scaled(outline, mark, np.array(shape, float)) - 0.5)
    return inside


def _box_around(mark: Annotation, shape: Vector) -> Corners:
    if mark.runs and not mark.box:
        places = np.argwhere(mask_from_runs(mark.runs, mark.size)).astype(np.float64)
        return np.array([places.min(axis=0), places.max(axis=0) + 1.0]) if len(places) else np.zeros((2, 2))
    points = [point for outline in mark.outlines for point in outline] or np.reshape(mark.box, (2, -1))
    scaled = _scaled(points, mark, shape)
    return np.array([scaled.min(axis=0), scaled.max(axis=0)])


def _scaled(points: Any, mark: Annotation, shape: Vector) -> Float64[np.ndarray, "points dims"]:
    places = np.array(points, np.float64)
    return places * shape if mark.unit == "share" else places


def _box_mm(mark: Annotation, image: Image) -> Corners:
    """Return the box in voxels around all corners of a box in mm, along axes of its own."""
    low, high = np.reshape(mark.box, (2, 3))
    corners = np.array([[(low, high)[bit >> axis & 1][axis] for axis in range(3)] for bit in range(8)])
    back = np.linalg.inv(image.affine)
    voxels = (corners * _LPS_TO_RAS) @ back[:3, :3].T + back[:3, 3] + 0.5
    return np.array([voxels.min(axis=0), voxels.max(axis=0)])
