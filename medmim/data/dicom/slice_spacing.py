"""Whether slices at places of their own form one even stack; measured, and repaired only a little."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medmim.data.dicom.gantry_tilt import is_tilted
from medmim.data.dicom.header import Header
from medmim.data.dicom.slices import RejectedSlices, Slice, SliceStack, own_place, refuse
from medmim.data.formats import geometry

MIN_SLICES = 3
EVEN_VOXELS = 0.1  # a slice this far from the fitted grid is in its place
REPAIRED_VOXELS = 0.2  # up to here it is put into its place, and the manifest says so
MAX_TILT_DEGREES = 45.0


def classify_stack(slices: list[Slice]) -> SliceStack | RejectedSlices:
    """Judge slices of one direction, size and spacing at places of their own."""
    if len(slices) < MIN_SLICES:
        return refuse(slices, "too_few_slices", slices=len(slices))
    heights, numbers = heights_of(slices), np.array([one.number for one in slices])
    order = np.lexsort((numbers, heights))
    ordered, heights = [slices[place] for place in order], heights[order]
    steps = np.diff(heights)
    step = float(np.median(steps))
    gaps = steps[steps > 1.5 * step]
    if len(gaps):
        missing = float(np.rint(gaps / step - 1).sum())
        return refuse(
            slices,
            "missing_slice",
            missing=missing,
            gaps=len(gaps),
            spacing_mm=step,
            gap_mm=float(gaps.max()),
        )
    if (declared := _declared_step(ordered[0].header)) and step > 1.9 * declared:
        return refuse(
            slices,
            "missing_slice",
            missing=np.rint(step / declared - 1) * len(steps),
            spacing_mm=declared,
            gap_mm=step,
        )
    return _judge_grid(ordered, step)


def _judge_grid(ordered: list[Slice], step: float) -> SliceStack | RejectedSlices:
    """Fit one grid to the slices and measure how far each slice's own header is from it."""
    first = ordered[0].header
    positions = np.array([one.header.position for one in ordered], np.float64)
    orientation, spacing = first.orientation or (), first.spacing or ()
    normal = geometry.slice_normal(orientation)
    travel = positions[-1] - positions[0]
    drift = float(np.linalg.norm(travel - normal * (travel @ normal)))
    affine = geometry.volume_affine(orientation, spacing, positions)
    tilted = is_tilted(affine, len(ordered))
    degrees = float(np.degrees(np.arctan2(drift, travel @ normal)))
    if tilted and degrees > MAX_TILT_DEGREES:
        return refuse(ordered, "tilt", tilt_degrees=degrees, drift_mm=drift)
    off = _off_grid(ordered, affine)
    if off[2] > REPAIRED_VOXELS:
        return refuse(ordered, "uneven_spacing", off_voxels=float(off[2]), spacing_mm=step)
    if max(off) > REPAIRED_VOXELS:
        return refuse(ordered, "slice_offset", off_voxels=float(max(off)))
    repairs = {"tilt_corrected": tilted, "spacing_evened": max(off) > EVEN_VOXELS}
    return SliceStack(tuple(ordered), affine, tuple(name for name, needed in repairs.items() if needed))


def _off_grid(ordered: Sequence[Slice], affine: geometry.Affine) -> list[float]:
    """Return how far corners of slices, by their own headers, are from the grid: voxels along each axis."""
    first = ordered[0].header
    inverse = np.linalg.inv(affine)
    places = np.array([own_place(one.header) for one in ordered], np.float64)
    corners = geometry.slice_corners(places, (first.rows, first.columns)) @ inverse[:3, :3].T + inverse[:3, 3]
    expected = geometry.corner_points((first.columns, first.rows, 1), np.eye(4))[::2]
    steps = np.arange(len(ordered))[:, None, None] * [0.0, 0.0, 1.0]
    return [float(value) for value in np.abs(corners - expected - steps).max(axis=(0, 1))]


def _declared_step(header: Header) -> float | None:
    """Return the distance of slice centres by the header, where it cannot be the mere gap between slices."""
    step, thickness = header.slice_step, header.thickness
    return step if step and thickness and np.isfinite(step) and step >= thickness > 0 else None


def heights_of(slices: Sequence[Slice]) -> Float64[np.ndarray, "slices"]:
    """Return the place of each slice along the normal of the first, in mm."""
    positions = np.array([one.header.position for one in slices], np.float64)
    return np.asarray(positions @ geometry.slice_normal(slices[0].header.orientation or ()), np.float64)
