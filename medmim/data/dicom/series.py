"""From slices to stacks: which slices belong together, in which order, and which are refused and why.

Slices of one series are parted by image type, echo, b-value, orientation, size and spacing; repeats of the
same places by what tells time points apart. Each part is judged on its own, by numbers: a stack that is not
evenly spaced along its normal is refused, never bent into shape. Slices that stand alone are pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from medmim.data.dicom.header import Header
from medmim.data.dicom.slice_spacing import MIN_SLICES, classify_stack, heights_of
from medmim.data.dicom.slices import (
    RejectedSlices,
    SingleImage,
    Slice,
    SliceStack,
    Verdict,
    near,
    parted,
    refuse,
    split,
)
from medmim.data.formats import geometry
from medmim.data.formats.nifti_header import MAX_SPACING_MM

SAME_PLACE_MM = 0.01
MAX_DISTANCE_MM = 1e5  # from the origin of the scanner's room
SAME_DIRECTION = 1e-3  # difference of a direction cosine; half a voxel at the far edge of 512
SAME_SPACING = 1e-3  # share of the pixel spacing
OTHER_PLANE = 0.94  # cosine of 20 degrees: normals further apart are planes of a localiser

_REPEATS: tuple[tuple[str, ...], ...] = (
    ("temporal_position",), ("gradient",), ("trigger_time",), ("inversion_time",), ("flip_angle",),
    ("acquisition",), ("temporal_position", "gradient", "trigger_time", "inversion_time", "acquisition"),
    ("acquisition_time",), ("frame_time",),
)  # fmt: skip


def stacks_of(slices: Iterable[Slice], blocked: Mapping[str, str]) -> list[Verdict]:
    """Part all slices into stacks and refusals; every slice is in exactly one of them.

    Args:
        slices: in the order of the walk, no instance twice.
        blocked: series that must be refused as a whole, with the reason: one of their files is damaged.
    """
    verdicts: list[Verdict] = []
    pictures, placed = split(slices, lambda one: one.header.kind == "picture")
    verdicts += [picture_of(one, {}) for one in pictures]
    for series in parted(placed, lambda one: (one.header.patient, one.header.study, one.header.series)):
        verdicts += _judge_series(series, blocked.get(series[0].header.series))
    return verdicts


def geometry_fault(header: Header) -> str | None:
    """Return why the place of a slice is not known, or None if it is."""
    parts = (header.spacing, header.orientation, header.position)
    if header.spacing is None or header.orientation is None or header.position is None:
        return "missing_geometry"
    if not all(np.isfinite(part).all() for part in parts if part is not None):
        return "non_finite_geometry"
    far = np.abs(header.position).max() > MAX_DISTANCE_MM
    if far or min(header.spacing) <= 0 or geometry.orthogonality_error(header.orientation) > 0.01:
        return "bad_geometry"
    if not np.isfinite([header.slope, header.intercept]).all() or header.slope == 0:
        return "bad_rescale"
    return None


def _judge_series(slices: list[Slice], blocked: str | None) -> list[Verdict]:
    faults = {one.number: fault for one in slices if (fault := geometry_fault(one.header))}
    verdicts: list[Verdict] = [
        RejectedSlices((one,), faults[one.number], {}) for one in slices if one.number in faults
    ]
    sound = [one for one in slices if one.number not in faults]
    if sound and (blocked or faults):
        return [
            *verdicts,
            RejectedSlices(tuple(sound), blocked or "damaged_series", {"damaged": float(len(faults) or 1)}),
        ]
    for family in parted(sound, _family):
        verdicts += _judge_family(family, alone=len(slices) == 1)
    return verdicts


def _family(one: Slice) -> Hashable:
    """Return what slices of one stack share; the tiles of each mosaic are a family."""
    header = one.header
    mosaic = one.number if header.kind == "tile" else None
    return header.image_type, header.echo_time, header.b_value, header.stack, mosaic


def _judge_family(slices: list[Slice], *, alone: bool) -> list[Verdict]:
    """Part slices by direction; too few of them for a stack are pictures where that is what they are for."""
    planes = near(slices, lambda one: one.header.orientation or (), SAME_DIRECTION)
    flags = _flags(planes)
    small = [plane for plane in planes if len(plane) < MIN_SLICES]
    pictures = alone or "localizer" in flags or "projection" in flags
    if small and len(small) < len(planes) and flags.get("localizer") != "by_image_type":
        return [refuse(slices, "mixed_orientation", planes=len(planes), slices=len(slices))]
    verdicts: list[Verdict] = []
    for plane in planes:
        if pictures and len(plane) < MIN_SLICES:
            verdicts += [picture_of(one, flags) for one in plane]
        else:
            found = _judge_plane(plane)
            verdicts += [replace(one, flags=flags) if isinstance(one, SliceStack) else one for one in found]
    return verdicts


def _flags(planes: Sequence[Sequence[Slice]]) -> dict[str, str]:
    """Return what a user should know of these slices: localisers, projections, derived images."""
    flags: dict[str, str] = {}
    first = planes[0][0].header
    normals = np.array([geometry.slice_normal(plane[0].header.orientation or ()) for plane in planes])
    if "LOCALIZER" in first.image_type:
        flags["localizer"] = "by_image_type"
    elif "PROJECTION IMAGE" in first.image_type:
        flags["projection"] = "by_image_type"
    elif np.abs(normals @ normals.T).min() < OTHER_PLANE:
        flags["localizer"] = "by_geometry"
    if first.image_type[:1] == ("DERIVED",):
        flags["derived"] = "by_image_type"
    return flags


def picture_of(one: Slice, flags: Mapping[str, str]) -> SingleImage:
    """Return a slice as a picture on a grid of one slice; where it lies nowhere, its rows run to the left."""
    header = one.header
    spacing = header.spacing if header.spacing and min(header.spacing) > 0 else None
    known = {} if spacing else {"spacing": "unknown"}
    spacing = spacing or (1.0, 1.0)
    sound = header.kind != "picture"
    affine = geometry.slice_affine(
        (header.orientation if sound else None) or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing,
        (header.position if sound else None) or (0.0, 0.0, 0.0),
    )
    thick = header.thickness if header.thickness and header.thickness < MAX_SPACING_MM else 0.0
    affine[:3, 2] *= max(*spacing, thick)  # 2D slices are cut across the longest step
    return SingleImage((one,), affine, {**flags, **known})


def _judge_plane(slices: list[Slice]) -> list[Verdict]:
    """Judge slices of one direction; a lone slice of another size or spacing spoils its whole stack."""
    sizes = parted(slices, lambda one: (one.header.rows, one.header.columns))
    if len(sizes) > 1 and min(map(len, sizes)) < MIN_SLICES:
        return [refuse(slices, "mixed_shape", shapes=len(sizes))]
    verdicts: list[Verdict] = []
    for size in sizes:
        spacings = near(size, lambda one: one.header.spacing or (), SAME_SPACING)
        if len(spacings) > 1 and min(map(len, spacings)) < MIN_SLICES:
            verdicts.append(refuse(size, "mixed_spacing", spacings=len(spacings)))
            continue
        for part in spacings:
            verdicts += _judge_repeats(part)
    return verdicts


def _judge_repeats(slices: list[Slice]) -> list[Verdict]:
    """Part repeats of the same places by what tells them apart, then judge each stack."""
    counts = _place_counts(slices)
    if max(counts) == 1:
        return [classify_stack(slices)]
    for names in _REPEATS:
        parts = parted(slices, lambda one: tuple(getattr(one.header, name) for name in names))  # noqa: B023
        if len({len(part) for part in parts}) == 1 and _whole(parts, slices):
            return [classify_stack(part) for part in parts]
    if len(set(counts)) == 1 and len(counts) >= MIN_SLICES:
        return _judge_numbered(slices, counts[0])
    return [refuse(slices, "duplicate_position", duplicates=sum(counts) - len(counts))]


def _whole(parts: Sequence[Sequence[Slice]], slices: Sequence[Slice]) -> bool:
    """Say whether each part has neighbouring places once each: what tells slices apart may not be time.

    Slices that are taken together, or each by itself, share a trigger time that no volume has.
    """
    heights = heights_of(slices)
    order = np.argsort(heights, kind="stable")
    ranks = np.empty(len(slices), int)
    ranks[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > SAME_PLACE_MM)
    place = {id(one): int(rank) for one, rank in zip(slices, ranks, strict=True)}
    if len(parts[0]) < min(MIN_SLICES, int(ranks.max()) + 1):
        return False
    found = [sorted(place[id(one)] for one in part) for part in parts]
    return all(part == list(range(part[0], part[0] + len(part))) for part in found)


def _judge_numbered(slices: list[Slice], repeats: int) -> list[Verdict]:
    """Part repeats that only their numbers tell apart: the k-th of each place is in the k-th volume."""
    if len({one.header.number for one in slices}) < len(slices) or any(
        one.header.number is None for one in slices
    ):
        return [refuse(slices, "repeats_not_told_apart", positions=len(slices) // repeats, repeats=repeats)]
    ordered = [slices[place] for place in np.argsort(heights_of(slices), kind="stable")]
    places = [ordered[start : start + repeats] for start in range(0, len(ordered), repeats)]
    numbered = [sorted(place, key=lambda one: one.header.number or 0.0) for place in places]
    verdicts = [classify_stack([place[turn] for place in numbered]) for turn in range(repeats)]
    return [
        replace(one, repairs=(*one.repairs, "repeats_by_number")) if isinstance(one, SliceStack) else one
        for one in verdicts
    ]


def _place_counts(slices: Sequence[Slice]) -> list[int]:
    """Return how many slices lie at each place along the normal."""
    heights = np.sort(heights_of(slices))
    starts = np.flatnonzero(np.diff(heights, prepend=-np.inf) > SAME_PLACE_MM)
    return [int(count) for count in np.diff([*starts, len(heights)])]
