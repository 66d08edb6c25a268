"""Structure sets: closed contours filled slice by slice on the grid of their image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pydicom
import skimage
from jaxtyping import Bool, Float64

from medmim.data.formats.nifti import Image
from medmim.errors import DataError

MAX_OFF = 0.25  # slices between a contour and its slice
MAX_OFF_RESAMPLED = 0.49  # at a half, either slice could be meant
_MAX_POINTS = 20_000_000
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
Mask = Bool[np.ndarray, "x y z"]


class Region(NamedTuple):
    """Voxels of one segment or structure on a grid, with its class number."""

    number: int
    mask: Mask


class _OffsetError(DataError):
    """Contours that do not lie in the slices of their image."""

    def __init__(self, voxels: float, distance_mm: float) -> None:
        super().__init__(
            f"structure set: contours lie {voxels:.2f} slices ({distance_mm:.2f} mm) from the nearest slice "
            f"or outside the image, expected at most {MAX_OFF:g}; check that both come from one series",
            reason="label_offset",
        )
        self.measured = {"offset_voxels": voxels, "offset_mm": distance_mm}


def fill_structures(
    dataset: pydicom.Dataset, image: Image, numbers: Mapping[str, int], *, resample: bool
) -> tuple[list[Region], dict[str, float]]:
    """Fill the contours of a structure set slice by slice; a contour inside another is a hole.

    A contour outside the image or between its slices is left out and counted.

    Raises:
        DataError: with reason label_offset if no contour lies in the image's slices.
    """
    masks: dict[int, Mask] = {}
    lost: list[tuple[float, float]] = []
    worst = (0.0, 0.0)
    filled_contours = 0
    for number, contours in _contours(dataset, numbers):
        mask = np.zeros(image.array.shape, bool)
        for points in contours:
            off, inside = _fill(mask, points, image, MAX_OFF_RESAMPLED if resample else MAX_OFF)
            if inside:
                worst, filled_contours = max(worst, off), filled_contours + 1
            else:
                lost.append(off)
        masks[number] = masks[number] | mask if number in masks else mask
    if lost and not filled_contours:
        raise _OffsetError(*max(lost))
    measured = {"offset_voxels": worst[0], "offset_mm": worst[1]} if filled_contours else {}
    measured |= {"contours_outside": float(len(lost))} if lost else {}
    return [Region(number, mask) for number, mask in masks.items()], measured


def _contours(
    dataset: pydicom.Dataset, numbers: Mapping[str, int]
) -> Iterator[tuple[int, list[Float64[np.ndarray, "points 3"]]]]:
    """Yield the class number and the closed contours of each structure, in mm (RAS)."""
    total = 0
    for roi in dataset.get("ROIContourSequence", ()):
        contours = []
        for one in roi.get("ContourSequence", ()):
            if str(one.get("ContourGeometricType", "")).upper() != "CLOSED_PLANAR":
                continue
            points = np.array([float(value) for value in one.ContourData], np.float64).reshape(-1, 3)
            total += len(points)
            if total > _MAX_POINTS:
                raise DataError(
                    f"structure set: expected at most {_MAX_POINTS} points, got more; export fewer",
                    reason="too_large",
                )
            if len(points) > 2:
                contours.append(points * _LPS_TO_RAS)
        yield numbers[str(int(roi.ReferencedROINumber))], contours


def _fill(
    filled: Mask, points: Float64[np.ndarray, "points 3"], image: Image, max_off: float
) -> tuple[tuple[float, float], bool]:
    """Fill one contour in place; what was filled before becomes a hole.

    Returns:
        The contour's distance from its slice in voxels and mm, and whether it was filled.
    """
    back = np.linalg.inv(image.affine)
    voxels = points @ back[:3, :3].T + back[:3, 3]
    across = int(np.ptp(voxels, axis=0).argmin())
    last = image.array.shape[across] - 1
    place = int(np.clip(np.rint(voxels[:, across].mean()), 0, last))
    off = float(np.abs(voxels[:, across] - place).max())
    distance = off, off * image.spacing_mm[across]
    others = [axis for axis in range(3) if axis != across]
    low, high = voxels[:, others].min(axis=0), voxels[:, others].max(axis=0)
    beside = (high < -0.5).any() or (low > np.array(image.array.shape)[others] - 0.5).any()
    if off > max_off or beside:
        return distance, False
    mask = skimage.draw.polygon2mask(tuple(image.array.shape[axis] for axis in others), voxels[:, others])
    index: list[Any] = [slice(None)] * 3
    index[across] = place
    filled[tuple(index)] ^= mask
    return distance, True
