"""Spacing of slices: whether slices at different positions form one evenly spaced stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medmim.data.dicom.gantry_tilt import is_tilted
from medmim.data.dicom.header import Header
from medmim.data.dicom.slices import RejectedSlices, Slice, SliceStack, heights_of, position_and_steps, reject
from medmim.data.formats import geometry

MIN_SLICES = 3  # fewer slices are no stack where their series has a larger one
EVEN_VOXELS = 0.1  # a slice this close to the fitted grid lies on it
REPAIRED_VOXELS = 0.2  # up to here a slice is moved onto the grid, and the manifest notes it
MAX_TILT_DEGREES = 45.0
_GAP = 1.5  # steps
_LONE_GAPS = 0.1  # share of wide steps up to which slices are missing; above, the spacing varies
_MAX_TURN = 0.01  # difference of direction cosines that rounding to two digits explains


def classify_stack(slices: list[Slice], *, uneven: bool = False) -> SliceStack | RejectedSlices:
    """Classify slices of one direction, size and pixel spacing at different positions.

    Args:
        slices: two or more.
        uneven: accept uneven spacing and missing slices, with `heights_mm`.
    """
    heights, numbers = heights_of(slices), np.array([one.number for one in slices])
    order = np.lexsort((numbers, heights))
    ordered, heights = [slices[place] for place in order], heights[order]
    steps = np.diff(heights)
    step = float(np.median(steps))
    gaps = steps[steps > _GAP * step]
    lone = 0 < len(gaps) <= max(1.0, _LONE_GAPS * len(steps)) or (len(gaps) and not _has_runs(steps, step))
    if lone and not uneven:
        missing = float(np.rint(gaps / step - 1).sum())
        sizes = {"missing": missing, "gaps": len(gaps), "spacing_mm": step, "gap_mm": float(gaps.max())}
        return reject(slices, "missing_slice", **sizes)
    if (declared := _declared_step(ordered[0].header)) and step > 1.9 * declared:
        missing = float(np.rint(step / declared - 1) * len(steps))
        return reject(slices, "missing_slice", missing=missing, spacing_mm=declared, gap_mm=step)
    return _fit_grid(ordered, step, uneven=uneven)


def _has_runs(steps: Float64[np.ndarray, "steps"], step: float) -> bool:
    """Return whether three wide steps follow each other: the spacing changes, and no slice is missing."""
    wide = steps > _GAP * step
    return bool((wide[2:] & wide[1:-1] & wide[:-2]).any())


def _fit_grid(ordered: list[Slice], step: float, *, uneven: bool) -> SliceStack | RejectedSlices:
    """Fit one grid to the slices and measure the distance of each slice's own header from it."""
    positions = np.array([one.header.position for one in ordered], np.float64)
    orientation, spacing = _mean_orientation(ordered), ordered[0].header.spacing or ()
    normal = geometry.slice_normal(orientation)
    travel = positions[-1] - positions[0]
    drift = float(np.linalg.norm(travel - normal * (travel @ normal)))
    affine = geometry.volume_affine(orientation, spacing, positions)
    tilted = is_tilted(affine, len(ordered))
    degrees = float(np.degrees(np.arctan2(drift, travel @ normal)))
    if tilted and degrees > MAX_TILT_DEGREES:
        return reject(ordered, "tilt", tilt_degrees=degrees, drift_mm=drift)
    corners, origins = _off_grid(ordered, affine)
    if origins[2] > REPAIRED_VOXELS:
        if uneven and max(origins[:2]) <= REPAIRED_VOXELS and not tilted:
            heights = tuple(float(height) for height in (positions - positions[0]) @ normal)
            return SliceStack(tuple(ordered), affine, heights_mm=heights)
        return reject(ordered, "uneven_spacing", off_voxels=origins[2], spacing_mm=step)
    turned = max(corners) > REPAIRED_VOXELS >= max(origins)
    turn = max(float(np.abs(np.subtract(one.header.orientation or (), orientation)).max()) for one in ordered)
    if max(origins) > REPAIRED_VOXELS or (turned and turn > _MAX_TURN):
        return reject(ordered, "slice_offset", off_voxels=max(corners))
    repairs = {
        "tilt_corrected": tilted,
        "spacing_evened": max(origins) > EVEN_VOXELS or (not turned and max(corners) > EVEN_VOXELS),
        "orientation_evened": turned,
    }
    return SliceStack(tuple(ordered), affine, tuple(name for name, needed in repairs.items() if needed))


def _mean_orientation(slices: Sequence[Slice]) -> tuple[float, ...]:
    """Return the orientation of the first slice or, if slices differ, the median of all."""
    found = np.array([one.header.orientation for one in slices], np.float64)
    if (np.ptp(found, axis=0) <= 1e-3).all():
        return slices[0].header.orientation or ()
    return tuple(np.median(found, axis=0).tolist())


def _off_grid(ordered: Sequence[Slice], affine: geometry.Affine) -> tuple[list[float], list[float]]:
    """Return the largest distances of corners and of origins from the grid, in voxels along each axis."""
    first = ordered[0].header
    inverse = np.linalg.inv(affine)
    places = np.array([position_and_steps(one.header) for one in ordered], np.float64)
    corners = geometry.slice_corners(places, (first.rows, first.columns)) @ inverse[:3, :3].T + inverse[:3, 3]
    expected = geometry.corner_points((first.columns, first.rows, 1), np.eye(4))[::2]
    steps = np.arange(len(ordered))[:, None, None] * [0.0, 0.0, 1.0]
    off = np.abs(corners - expected - steps)
    return off.max(axis=(0, 1)).tolist(), off[:, 0].max(axis=0).tolist()


def _declared_step(header: Header) -> float | None:
    """Return the header's distance of slice centres, unless it can only be the gap between slices."""
    step, thickness = header.slice_step, header.thickness
    return step if step and thickness and np.isfinite(step) and step >= thickness > 0 else None
