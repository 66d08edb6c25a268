"""How volumes of one dataset are brought to one shape for a network: dimensions, patch size, spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel.orientations import axcodes2ornt

from medmim.data.dataset.manifest import VolumeRecord
from medmim.errors import DataError, ShapeError
from medmim.shapes import Size, as_size, round_up

Dims = Literal[2, 3]
View = Literal["patch", "whole"]

_LARGEST_PATCH = {2: 192, 3: 64}
_THIN = 16
_SPACING_TOLERANCE = 0.05


@dataclass(frozen=True)
class PreprocessingPlan:
    """What every volume becomes before a network sees it; axes are RAS (right, anterior, superior).

    Attributes:
        dims: 2 (slices across the axis of largest spacing) or 3.
        size: voxels of a patch.
        spacing_mm: spacing that volumes are resampled to, for the three axes; 0 = as it is; None = none is.
        view: patch: parts of `size` are seen; whole: every image is scaled to fit `size`, whatever its
            spacing: pictures keep their shape, volumes are scaled axis by axis.
    """

    dims: Dims
    size: Size
    spacing_mm: tuple[float, float, float] | None = None
    view: View = "patch"


def plan_for(
    volumes: Sequence[VolumeRecord],
    *,
    dims: Dims | None,
    size: Sequence[int] | None,
    multiple: Size | None = None,
    view: View = "patch",
) -> PreprocessingPlan:
    """Choose what the user left open.

    Args:
        volumes: the volumes that training may see.
        dims: 2, 3, or None: 3 unless most volumes have fewer than 16 slices.
        size: patch in voxels, or None: the median volume, at most 64 (3D) or 192 (2D) voxels an axis.
        multiple: sizes must divide by this, for each axis of a patch; None: 16 along each.
        view: as in `PreprocessingPlan`.

    Raises:
        DataError: if there are no volumes.
        ShapeError: if a given size does not divide by `multiple`.
    """
    if not volumes:
        raise DataError("no volumes to train on: ingest data first, or widen the splits", reason="no_volumes")
    shapes = np.array([_in_ras(volume, volume.shape) for volume in volumes])
    spacings = np.array([_in_ras(volume, volume.spacing_mm) for volume in volumes])
    chosen: Dims = dims or (2 if np.median(shapes.min(axis=1)) < _THIN else 3)
    step = multiple or (16,) * chosen
    thick = np.array([slice_axis(spacing) for spacing in spacings])
    if size is None:
        seen = shapes if chosen == 3 else _without(shapes, thick)
        median = tuple(int(length) for length in np.median(seen, axis=0))
        limit = tuple(_LARGEST_PATCH[chosen] // s * s for s in step)
        patch = tuple(min(a, max(b, s)) for a, b, s in zip(round_up(median, step), limit, step, strict=True))
    else:
        patch = as_size(size, chosen, what="--size")
        if any(length % s for length, s in zip(patch, step, strict=True)):
            nearest = ",".join(map(str, round_up(patch, step)))
            raise ShapeError(
                f"--size {','.join(map(str, patch))}: expected multiples of {','.join(map(str, step))} "
                f"(the encoder's total stride and the mask cell); use --size {nearest}"
            )
    spacing = None if view == "whole" else _common_spacing(spacings, thick if chosen == 2 else None)
    return PreprocessingPlan(chosen, patch, spacing, view)


def voxel_mm(volumes: Sequence[VolumeRecord], plan: PreprocessingPlan) -> tuple[float, ...] | None:
    """Return the size of a patch's voxels along its axes, in mm; None where a volume does not tell its own.

    Args:
        volumes: what patches are drawn from.
        plan: what they become; where it resamples nothing, the median of their sizes holds.
    """
    if any(volume.flags.get("spacing") == "unknown" for volume in volumes):
        return None
    spacings = np.array([_in_ras(volume, volume.spacing_mm) for volume in volumes])
    if plan.dims == 2:
        spacings = _without(spacings, np.array([slice_axis(spacing) for spacing in spacings]))
    if plan.spacing_mm is not None:
        return plan.spacing_mm[: plan.dims]  # in 2D, one number for both axes
    return tuple(float(length) for length in np.median(spacings, axis=0))


def slice_axis(spacing_mm: Sequence[float] | np.ndarray) -> int:
    """Return the axis of largest spacing, across which 2D slices are cut; the last one where it shares that.

    Args:
        spacing_mm: of the axes right, anterior, superior; compared to a micrometre.
    """
    rounded = np.round(np.asarray(spacing_mm, dtype=float), 3)
    return 2 if rounded[2] == rounded.max() else int(rounded.argmax())


def _in_ras(volume: VolumeRecord, values: Sequence[int] | Sequence[float]) -> list[float]:
    """Reorder values given an array axis to the axes right, anterior, superior."""
    order = axcodes2ornt(tuple(volume.orientation))[:, 0].astype(int)
    placed = [0.0] * len(order)
    for axis, target in enumerate(order):
        placed[target] = float(values[axis])
    return placed


def _without(values: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Drop one entry a row."""
    keep = np.arange(values.shape[1])[None] != axis[:, None]
    return np.asarray(values[keep].reshape(len(values), -1))


def _common_spacing(spacings: np.ndarray, thick: np.ndarray | None) -> tuple[float, float, float] | None:
    """Return the median spacing when volumes differ; the slice axis of 2D work is left as it is."""
    median = np.median(spacings, axis=0)
    differs = np.abs(spacings / median - 1) > _SPACING_TOLERANCE
    if thick is not None:
        in_plane = np.median(_without(spacings, thick))
        differs = np.abs(_without(spacings, thick) / in_plane - 1) > _SPACING_TOLERANCE
        median = np.full(3, in_plane)
    if not differs.any():
        return None
    return (float(median[0]), float(median[1]), float(median[2]))
