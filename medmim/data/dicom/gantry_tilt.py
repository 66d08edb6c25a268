"""Gantry tilt: slices that drift sideways are shifted onto a grid with axes at right angles."""

from __future__ import annotations

import numpy as np
import scipy  # submodules are loaded on use: few stacks are tilted
from jaxtyping import Shaped

from medmim.data.formats.geometry import Affine
from medmim.data.formats.nifti import Image

TILT_PIXELS = 0.5  # drift from the first to the last slice; less is rounding of the header
_NOTHING = 0.01  # pixels


def drift_of(affine: Affine) -> tuple[float, float]:
    """Return the sideways shift of each slice against the one before, in pixels along column and row."""
    drift = [affine[:3, 2] @ affine[:3, axis] / (affine[:3, axis] @ affine[:3, axis]) for axis in (0, 1)]
    return float(drift[0]), float(drift[1])


def is_tilted(affine: Affine, count: int) -> bool:
    """Return whether `count` slices on a grid drift sideways."""
    return max(map(abs, drift_of(affine))) * (count - 1) > TILT_PIXELS


def correct_tilt(image: Image) -> Image:
    """Return the volume on a grid with right angles that contains all of it.

    Slices are shifted in their plane with linear interpolation; voxels that no slice covers get the smallest
    value of the volume. A volume without tilt is returned unchanged.
    """
    count = image.array.shape[2]
    if not is_tilted(image.affine, count):
        return image
    drift = np.array(drift_of(image.affine))
    ends = drift * (count - 1)
    before = np.ceil(np.maximum(0.0, -ends - _NOTHING)).astype(int)
    after = np.ceil(np.maximum(0.0, ends - _NOTHING)).astype(int)
    sides = np.array(image.array.shape[:2])
    margins = [(int(low), int(high)) for low, high in zip(before, after, strict=True)]
    array: Shaped[np.ndarray, "x y z"] = np.full(
        (*(sides + before + after), count), image.array.min(), image.array.dtype
    )
    for place in range(count):
        padded = np.pad(image.array[:, :, place], margins, mode="edge").astype(np.float64)
        moved = scipy.ndimage.shift(padded, drift * place, order=1, mode="nearest")
        starts = before + drift * place  # first pixel of the shifted slice
        across, down = (
            slice(max(0, round(start)), max(0, round(start + side)))
            for start, side in zip(starts.tolist(), sides.tolist(), strict=True)
        )
        array[across, down, place] = (np.rint(moved) if array.dtype.kind in "iu" else moved)[across, down]
    affine = image.affine.copy()
    affine[:3, 2] -= affine[:3, :2] @ drift
    affine[:3, 3] -= affine[:3, :2] @ before
    return Image(array, affine)
