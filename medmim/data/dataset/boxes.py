"""Bounding boxes of findings: validation, conversion between voxel grids, and boxes of single slices.

Boxes are xyzxyz in voxels, first corner then last, half-open: voxel i spans from i to i + 1. A box of a
picture has z from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medmim.data.dataset.manifest import BoxRecord, VolumeRecord
from medmim.errors import DataError, counted

Boxes = Float64[np.ndarray, "boxes 6"]

_MIN_SIDE = 1e-3  # voxels; thinner boxes are empty
_MAX_LISTED = 3


def stored_boxes(volume: VolumeRecord) -> Boxes:
    """Return the boxes of a manifest row on its stored grid."""
    # a box of a picture spans its only slice
    rows = [one.box if len(one.box) == 6 else (*one.box[:2], 0.0, *one.box[2:], 1.0) for one in volume.boxes]
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def check_boxes(volumes: Sequence[VolumeRecord], *, clip: bool) -> tuple[tuple[VolumeRecord, ...], list[str]]:
    """Check that every box matches its image, is finite, not inverted, not empty and inside the image.

    Args:
        clip: clip boxes that lie partly outside, and drop those entirely outside.

    Returns:
        The rows, and a message for each box that was clipped or dropped.

    Raises:
        DataError: without `clip`, if any box is invalid; the message lists the first ones.
    """
    kept, faults = [], []
    for volume in volumes:
        boxes = []
        for number, one in enumerate(volume.boxes):
            fault = _fault(one, volume)
            if fault:
                faults.append(f"volume {volume.id}, box {number}: {fault}")
            boxes += [one] if not fault else _clipped(one, volume)
        kept.append(volume.model_copy(update={"boxes": tuple(boxes)}))
    if faults and not clip:
        more = f" and {len(faults) - _MAX_LISTED} more" if len(faults) > _MAX_LISTED else ""
        raise DataError(
            f"{counted(len(faults), 'invalid box', 'invalid boxes')}: "
            f"{'; '.join(faults[:_MAX_LISTED])}{more}; correct them and ingest again, or clip them with "
            "--set task_options.bad_boxes=clip",
            reason="bad_boxes",
        )
    return tuple(kept), faults


def map_boxes(boxes: Boxes, source: np.ndarray, target: np.ndarray) -> Boxes:
    """Convert boxes to another grid whose axes are parallel, in any order and direction.

    Args:
        boxes: in voxels of the source grid.
        source: affine of the source grid, voxel to mm, (4, 4).
        target: affine of the target grid.
    """
    across = np.linalg.inv(target) @ source
    ends = [boxes[:, :3] - 0.5, boxes[:, 3:] - 0.5]  # affines refer to voxel centres
    first, last = (end @ across[:3, :3].T + across[:3, 3] + 0.5 for end in ends)
    return np.concatenate([np.minimum(first, last), np.maximum(first, last)], axis=1)


def boxes_in_slice(boxes: Boxes, axis: int, index: int) -> np.ndarray:
    """Return which boxes contain the centre plane of a slice; thin ones belong to that of their centre."""
    first, last = boxes[:, axis], boxes[:, axis + 3]
    contains = (first <= index + 0.5) & (last > index + 0.5)
    thin = np.ceil(first - 0.5) + 0.5 >= last
    return np.asarray(contains | (thin & (np.floor((first + last) / 2) == index)))


def boxes_to_2d(boxes: Boxes, axis: int) -> Float64[np.ndarray, "boxes 4"]:
    """Drop the axis perpendicular to the slice."""
    return np.delete(boxes, [axis, axis + 3], axis=1)


def boxes_to_3d(boxes: Float64[np.ndarray, "boxes 4"], axis: int, index: int) -> Boxes:
    """Extend boxes of a slice to boxes of the volume, one slice thick."""
    return np.insert(boxes, [axis, axis + 2], [index, index + 1], axis=1)


def _fault(one: BoxRecord, volume: VolumeRecord) -> str:
    dims = 2 if volume.shape[2] == 1 and len(one.box) == 4 else 3
    if len(one.box) != 2 * dims:
        return f"expected {2 * dims} numbers, got {len(one.box)}"
    if not all(map(math.isfinite, one.box)):
        return "not finite"
    sides = [last - first for first, last in zip(one.box[:dims], one.box[dims:], strict=True)]
    if min(sides) < 0:
        return "inverted: its first corner exceeds its last"
    if min(sides) < _MIN_SIDE:
        return "empty"
    outside = any(
        first < -_MIN_SIDE or last > length + _MIN_SIDE
        for first, last, length in zip(one.box[:dims], one.box[dims:], volume.shape, strict=False)
    )
    return "outside its image" if outside else ""


def _clipped(one: BoxRecord, volume: VolumeRecord) -> list[BoxRecord]:
    """Return the part of a box inside its image, if any."""
    dims = len(one.box) // 2
    if dims not in (2, 3) or not all(map(math.isfinite, one.box)):
        return []
    limits = np.array(volume.shape[:dims], dtype=float)
    corners = np.clip(np.reshape(one.box, (2, dims)), 0.0, limits)
    if (corners[1] - corners[0]).min() < _MIN_SIDE:
        return []
    return [one.model_copy(update={"box": tuple(float(value) for value in corners.ravel())})]
