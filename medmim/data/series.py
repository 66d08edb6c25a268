"""From slices to stacks: which slices belong together, in which order, and which are refused and why.

Slices of one series are parted by image type, echo, b-value, orientation, size and spacing; repeats of the
same places by what tells time points apart. Each part is judged on its own, by numbers: a stack that is not
evenly spaced along its normal is refused, never bent into shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmim.data import geometry
from medmim.data.header import Header

MIN_SLICES = 3
SAME_PLACE_MM = 0.01
SAME_DIRECTION = 1e-3  # difference of a direction cosine; half a voxel at the far edge of 512
SAME_SPACING = 1e-3  # share of the pixel spacing
EVEN_VOXELS = 0.1  # a slice this far from the fitted grid is in its place
REPAIRED_VOXELS = 0.2  # up to here it is put into its place, and the manifest says so
TILT_PIXELS = 0.5  # drift across the normal from first to last slice

_REPEATS: tuple[tuple[str, ...], ...] = (
    ("temporal_position",), ("gradient",), ("trigger_time",), ("inversion_time",), ("flip_angle",),
    ("acquisition",), ("temporal_position", "gradient", "trigger_time", "inversion_time", "acquisition"),
    ("acquisition_time",),
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One file with its place in the walk."""

    number: int
    path: Path
    header: Header


@dataclass(frozen=True)
class Stack:
    """Slices in order along their normal, and their grid: (column, row, slice) to mm in RAS."""

    slices: tuple[Slice, ...]
    affine: geometry.Affine
    repairs: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.slices[0].header.columns, self.slices[0].header.rows, len(self.slices)


@dataclass(frozen=True)
class Refused:
    """Slices that form no volume, why, and the numbers that show it."""

    slices: tuple[Slice, ...]
    reason: str
    measured: Mapping[str, float]


Verdict = Stack | Refused


def stacks_of(slices: Iterable[Slice], blocked: Mapping[str, str]) -> list[Verdict]:
    """Part all slices into stacks and refusals; every slice is in exactly one of them.

    Args:
        slices: in the order of the walk, no instance twice.
        blocked: series that must be refused as a whole, with the reason: one of their files is damaged.
    """
    verdicts: list[Verdict] = []
    for series in _parted(slices, lambda one: (one.header.patient, one.header.study, one.header.series)):
        verdicts += _judge_series(series, blocked.get(series[0].header.series))
    return verdicts


def geometry_fault(header: Header) -> str | None:
    """Return why the place of a slice is not known, or None if it is."""
    parts = (header.spacing, header.orientation, header.position)
    if header.spacing is None or header.orientation is None or header.position is None:
        return "missing_geometry"
    if not all(np.isfinite(part).all() for part in parts if part is not None):
        return "non_finite_geometry"
    if min(header.spacing) <= 0 or geometry.orientation_fault(header.orientation) > 0.01:
        return "bad_geometry"
    if not np.isfinite([header.slope, header.intercept]).all() or header.slope == 0:
        return "bad_rescale"
    return None


def _judge_series(slices: list[Slice], blocked: str | None) -> list[Verdict]:
    faults = {one.number: fault for one in slices if (fault := geometry_fault(one.header))}
    verdicts: list[Verdict] = [
        Refused((one,), faults[one.number], {}) for one in slices if one.number in faults
    ]
    sound = [one for one in slices if one.number not in faults]
    if sound and (blocked or faults):
        return [
            *verdicts,
            Refused(tuple(sound), blocked or "damaged_series", {"damaged": float(len(faults) or 1)}),
        ]
    for family in _parted(
        sound, lambda one: (one.header.image_type, one.header.echo_time, one.header.b_value)
    ):
        for plane in _near(family, lambda one: one.header.orientation or (), SAME_DIRECTION):
            verdicts += _judge_plane(plane)
    return verdicts


def _judge_plane(slices: list[Slice]) -> list[Verdict]:
    """Judge slices of one direction; a lone slice of another size or spacing spoils its whole stack."""
    sizes = _parted(slices, lambda one: (one.header.rows, one.header.columns))
    if len(sizes) > 1 and min(map(len, sizes)) < MIN_SLICES:
        return [_refuse(slices, "mixed_shape", shapes=len(sizes))]
    verdicts: list[Verdict] = []
    for size in sizes:
        spacings = _near(size, lambda one: one.header.spacing or (), SAME_SPACING)
        if len(spacings) > 1 and min(map(len, spacings)) < MIN_SLICES:
            verdicts.append(_refuse(size, "mixed_spacing", spacings=len(spacings)))
            continue
        for part in spacings:
            verdicts += _judge_repeats(part)
    return verdicts


def _judge_repeats(slices: list[Slice]) -> list[Verdict]:
    """Part repeats of the same places by what tells them apart, then judge each stack."""
    counts = _place_counts(slices)
    if max(counts) == 1:
        return [_judge_stack(slices)]
    for names in _REPEATS:
        parts = _parted(slices, lambda one: tuple(getattr(one.header, name) for name in names))  # noqa: B023
        if len({len(part) for part in parts}) == 1 and all(max(_place_counts(part)) == 1 for part in parts):
            return [_judge_stack(part) for part in parts]
    if len(set(counts)) == 1 and len(counts) >= MIN_SLICES:
        return [_refuse(slices, "4d_not_supported_yet", positions=len(counts), repeats=counts[0])]
    return [_refuse(slices, "duplicate_position", duplicates=sum(counts) - len(counts))]


def _judge_stack(slices: list[Slice]) -> Verdict:
    """Judge slices of one direction, size and spacing at places of their own."""
    if len(slices) < MIN_SLICES:
        return _refuse(slices, "too_few_slices", slices=len(slices))
    ordered = sorted(slices, key=lambda one: (_height(one, slices[0]), one.number))
    heights = np.array([_height(one, slices[0]) for one in ordered])
    steps = np.diff(heights)
    step = float(np.median(steps))
    gaps = steps[steps > 1.5 * step]
    if len(gaps):
        missing = float(np.rint(gaps / step - 1).sum())
        return _refuse(
            slices,
            "missing_slice",
            missing=missing,
            gaps=len(gaps),
            spacing_mm=step,
            gap_mm=float(gaps.max()),
        )
    if (declared := _declared_step(ordered[0].header)) and step > 1.9 * declared:
        return _refuse(
            slices,
            "missing_slice",
            missing=np.rint(step / declared - 1) * len(steps),
            spacing_mm=declared,
            gap_mm=step,
        )
    return _judge_grid(ordered, step)


def _judge_grid(ordered: list[Slice], step: float) -> Verdict:
    """Fit one grid to the slices and measure how far each slice's own header is from it."""
    first = ordered[0].header
    positions = np.array([one.header.position for one in ordered], np.float64)
    orientation, spacing = first.orientation or (), first.spacing or ()
    normal = geometry.normal_of(orientation)
    travel = positions[-1] - positions[0]
    drift = float(np.linalg.norm(travel - normal * (travel @ normal)))
    if drift > TILT_PIXELS * min(spacing):
        degrees = float(np.degrees(np.arctan2(drift, travel @ normal)))
        return _refuse(ordered, "tilt", tilt_degrees=degrees, drift_mm=drift)
    affine = geometry.volume_affine(orientation, spacing, positions)
    off = _off_grid(ordered, affine)
    if off[2] > REPAIRED_VOXELS:
        return _refuse(ordered, "uneven_spacing", off_voxels=float(off[2]), spacing_mm=step)
    if max(off) > REPAIRED_VOXELS:
        return _refuse(ordered, "slice_offset", off_voxels=float(max(off)))
    return Stack(tuple(ordered), affine, ("spacing_evened",) if max(off) > EVEN_VOXELS else ())


def _off_grid(ordered: Sequence[Slice], affine: geometry.Affine) -> list[float]:
    """Return how far corners of slices, by their own headers, are from the grid: voxels along each axis."""
    inverse = np.linalg.inv(affine)
    worst = np.zeros(3)
    for place, one in enumerate(ordered):
        header = one.header
        shape = (header.columns, header.rows, 1)
        own = geometry.slice_affine(header.orientation or (), header.spacing or (), header.position or ())
        corners = geometry.corners_of(shape, own) @ inverse[:3, :3].T + inverse[:3, 3]
        expected = geometry.corners_of(shape, np.eye(4)) + np.array([0.0, 0.0, float(place)])
        worst = np.maximum(worst, np.abs(corners - expected).max(axis=0))
    return [float(value) for value in worst]


def _declared_step(header: Header) -> float | None:
    """Return the distance of slice centres by the header, where it cannot be the mere gap between slices."""
    step, thickness = header.slice_step, header.thickness
    return step if step and thickness and np.isfinite(step) and step >= thickness > 0 else None


def _height(one: Slice, reference: Slice) -> float:
    """Return the place of a slice along the normal of `reference`, in mm."""
    return float(np.dot(geometry.normal_of(reference.header.orientation or ()), one.header.position or ()))


def _place_counts(slices: Sequence[Slice]) -> list[int]:
    """Return how many slices lie at each place along the normal."""
    heights = np.sort([_height(one, slices[0]) for one in slices])
    starts = np.flatnonzero(np.diff(heights, prepend=-np.inf) > SAME_PLACE_MM)
    return [int(count) for count in np.diff([*starts, len(heights)])]


def _refuse(slices: Sequence[Slice], reason: str, /, **measured: float | int) -> Refused:
    return Refused(tuple(slices), reason, {name: float(value) for name, value in measured.items()})


def _parted(slices: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    parts: dict[Hashable, list[Slice]] = defaultdict(list)
    for one in slices:
        parts[key(one)].append(one)
    return list(parts.values())


def _near(
    slices: Iterable[Slice], value: Callable[[Slice], Sequence[float]], tolerance: float
) -> list[list[Slice]]:
    """Part slices by numbers that agree within `tolerance` with those of a part's first slice."""
    parts: list[list[Slice]] = []
    for one in slices:
        for part in parts:
            if np.abs(np.subtract(value(one), value(part[0]))).max() <= tolerance:
                part.append(one)
                break
        else:
            parts.append([one])
    return parts
