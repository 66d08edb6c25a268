"""Grouping of a series' slices into volumes, by image type, echo, b-value, plane and time point.

Groups that interleave on one even grid are one volume. A stray slice is rejected alone. A stack that is not
evenly spaced along its normal is rejected, never changed without a note.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from medmim.data.dicom.header import MAX_ORIENTATION_FAULT, Header
from medmim.data.dicom.repeated_positions import place_counts, split_repeats
from medmim.data.dicom.slice_spacing import EVEN_VOXELS, MIN_SLICES, classify_stack
from medmim.data.dicom.slices import (
    PHOTOMETRIC,
    SingleImage,
    Slice,
    SliceGroup,
    SliceStack,
    group_by,
    group_near,
    heights_of,
    reject,
    unit_flag,
)
from medmim.data.formats import geometry
from medmim.data.formats.nifti_header import MAX_SPACING_MM

MAX_DISTANCE_MM = 1e5  # from the origin of the scanner's coordinates
SAME_DIRECTION = 1e-3  # difference of a direction cosine; half a voxel at the far edge of 512
ROUNDED_DIRECTION = 1e-2  # difference that rounding to two digits explains
SAME_SPACING = 1e-3  # fraction of the pixel spacing
SAME_ECHO = 0.05  # fraction of the echo time
OTHER_PLANE = 0.94  # cosine of 20 degrees: normals further apart belong to a localizer
FAR_APART = 3.0  # slice thicknesses between two slices that form no volume

# words of an image type that change what the values mean
_VALUE_WORDS = frozenset((
    "M", "MAGNITUDE", "P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "OTHER_PART", "ADC", "FA",
    "TRACEW", "EXP", "WATER", "FAT", "W", "F", "IN_PHASE", "OUT_PHASE", "IP", "OP", "LOCALIZER", "MIXED",
    "PROJECTION IMAGE", "T1 MAP", "T2 MAP", "T2_STAR MAP", "CBF", "CBV", "MTT", "TTP", "SUBTRACTION",
))  # fmt: skip


def group_slices(
    slices: Iterable[Slice], blocked: Mapping[str, str], *, compared: bool = True, uneven: bool = False
) -> list[SliceGroup]:
    """Group slices into volumes, single images and rejections; each slice is in exactly one group.

    Args:
        slices: in the order of the source, without copies of an instance.
        blocked: series that must be rejected as a whole, with the reason: one of their files is damaged.
        compared: slices at one position have been compared, so that none is a copy of another. Without it,
            series that need this comparison are rejected with reason duplicate_position.
    """
    groups: list[SliceGroup] = []
    placed = []
    for one in slices:
        if one.header.kind == "picture":
            groups.append(single_image(one, {}))
        else:
            placed.append(one)
    for series in group_by(placed, lambda one: (one.header.patient, one.header.study, one.header.series)):
        reason = blocked.get(series[0].header.series)
        if reason:
            groups.append(reject(series, reason, damaged=1))
        else:
            groups += _group_series(series, compared=compared, uneven=uneven)
    return groups


def geometry_fault(header: Header) -> str | None:
    """Return why the position or scale of a slice is unknown, or None if both are known."""
    parts = (header.spacing, header.orientation, header.position)
    if header.spacing is None or header.orientation is None or header.position is None:
        return "missing_geometry"
    if not all(np.isfinite(part).all() for part in parts if part is not None):
        return "non_finite_geometry"
    far = np.abs(header.position).max() > MAX_DISTANCE_MM
    skewed = geometry.orthogonality_error(header.orientation) > MAX_ORIENTATION_FAULT
    if far or skewed or min(header.spacing) <= 0:
        return "bad_geometry"
    return None if np.isfinite([header.slope, header.intercept]).all() else "bad_rescale"


def _group_series(slices: list[Slice], *, compared: bool, uneven: bool) -> list[SliceGroup]:
    """Group the slices of one series; slices without a position are rejected alone."""
    faults = {id(one): fault for one in slices if (fault := geometry_fault(one.header))}
    groups: list[SliceGroup] = [reject([one], faults[id(one)]) for one in slices if id(one) in faults]
    families = _families([one for one in slices if id(one) not in faults])
    large = [family for family in families if len(family) >= MIN_SLICES]
    strays = [one for one in families if large and len(one) < MIN_SLICES and not _is_scout(one[0].header)]
    for family in strays:
        reason = _difference(family[0].header, max(large, key=len)[0].header)
        groups.append(reject(family, reason, families=len(families), slices=len(slices)))
    rejected = len(faults) + sum(map(len, strays))
    noted = {"rejected_slices": str(rejected)} if rejected else {}
    kept = [family for family in families if family not in strays]
    for family in kept:
        flags = _flags(family, kept) | noted
        if _is_interleaved(family, kept):
            flags["interleaved"] = "with other values"
        if len(family) < MIN_SLICES:
            groups += _few_slices(family, flags)
            continue
        groups += [
            replace(found, flags={**flags, **found.flags}) if isinstance(found, SliceStack) else found
            for found in split_repeats(family, compared=compared, uneven=uneven)
        ]
    return groups


def _families(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Group slices by all that slices of a volume share; groups that interleave on one grid are joined."""
    families: list[list[Slice]] = []
    for size in group_by(slices, lambda one: (one.header.rows, one.header.columns)):
        for spaced in group_near(size, lambda one: one.header.spacing or (), SAME_SPACING):
            found: list[list[Slice]] = []
            for plane in group_near(spaced, lambda one: one.header.orientation or (), SAME_DIRECTION):
                found += group_by(plane, _family)
            families += _join_interleaved(found)
    return families


def _family(one: Slice) -> Hashable:
    """Return what slices of a volume share; the tiles of each mosaic are a family."""
    header = one.header
    mosaic = (one.number, header.instance) if header.kind == "tile" else None
    return (
        header.image_type, header.echo_time, header.b_value, header.stack, header.reversed_rows, mosaic
    )  # fmt: skip


def _join_interleaved(families: list[list[Slice]]) -> list[list[Slice]]:
    """Join families whose differences are slight and whose slices fill each other's gaps."""
    joined: list[list[Slice]] = []
    for alike in _alike(families):
        together = [one for family in alike for one in family]
        if len(alike) > 1 and _fill_gaps(alike):
            joined.append(together)
            continue
        parts: list[list[Slice]] = []
        for family in sorted(alike, key=len, reverse=True):
            fitting = next((part for part in parts if _fill_gaps([part, family])), None)
            if fitting is None:
                parts.append(list(family))
            else:
                fitting += family
        joined += parts
    return joined


def _alike(families: Sequence[list[Slice]]) -> list[list[list[Slice]]]:
    """Group families that could be parts of one volume."""
    groups: list[list[list[Slice]]] = []
    for family in families:
        own = family[0].header
        fitting = (group for group in groups if _are_alike(own, group[0][0].header))
        group = next(fitting, None)
        if group is None:
            groups.append([family])
        else:
            group.append(family)
    return groups


def _are_alike(one: Header, other: Header) -> bool:
    words = set(one.image_type) ^ set(other.image_type)
    near = (
        one.echo_time is None
        or other.echo_time is None
        or (abs(one.echo_time - other.echo_time) <= SAME_ECHO * abs(other.echo_time))
    )
    turned = np.abs(np.subtract(one.orientation or (), other.orientation or ())).max() > ROUNDED_DIRECTION
    same = one.b_value == other.b_value and one.reversed_rows == other.reversed_rows
    return same and near and not turned and one.kind != "tile" and not words & _VALUE_WORDS


def _is_interleaved(family: Sequence[Slice], families: Sequence[Sequence[Slice]]) -> bool:
    """Return whether the slices of another family lie between all slices of this one, halfway."""
    own = np.sort(heights_of(family))
    middles = (own[1:] + own[:-1]) / 2
    for other in families:
        first, second = (geometry.slice_normal(one[0].header.orientation or ()) for one in (family, other))
        parallel = abs(first @ second) > 1.0 - ROUNDED_DIRECTION
        if other is family or len(own) < MIN_SLICES or not parallel:
            continue
        heights = heights_of([family[0], *other])[1:]
        off = np.abs(middles[:, None] - heights).min(axis=1)
        if off.max() <= EVEN_VOXELS * np.diff(own).min():
            return True
    return False


def _fill_gaps(families: Sequence[list[Slice]]) -> bool:
    """Return whether families have no position in common and interleave on one even grid.

    A family that is too small for a volume need not lie between the others' slices.
    """
    together = [one for family in families for one in family]
    single = _one_per_place(together)
    if len(single) < MIN_SLICES or len(single) != sum(len(_one_per_place(one)) for one in families):
        return False
    heights = heights_of(together)
    ends, start = [], 0
    for family in families:
        part = heights[start : start + len(family)]
        start += len(family)
        ends.append((part.min(), part.max(), len(family) < MIN_SLICES))
    for index, (low, high, small) in enumerate(ends):
        others = [end for place, end in enumerate(ends) if place != index]
        inside = low < max(end[1] for end in others) and high > min(end[0] for end in others)
        if not (inside or small or all(end[2] for end in others)):
            return False
    return isinstance(classify_stack(single), SliceStack)


def _one_per_place(slices: Sequence[Slice]) -> list[Slice]:
    """Return the first slice at each position, sorted along the normal."""
    heights = heights_of(slices)
    order = np.argsort(heights, kind="stable")
    starts = np.cumsum([0, *place_counts(slices)[:-1]])
    return [slices[order[start]] for start in starts]


def _is_scout(header: Header) -> bool:
    return "LOCALIZER" in header.image_type or "PROJECTION IMAGE" in header.image_type


def _difference(stray: Header, main: Header) -> str:
    """Return why a stray slice does not belong to the volume of its series."""
    if (stray.rows, stray.columns) != (main.rows, main.columns):
        return "mixed_shape"
    if np.abs(np.subtract(stray.orientation or (), main.orientation or ())).max() > SAME_DIRECTION:
        return "mixed_orientation"
    if np.abs(np.subtract(stray.spacing or (), main.spacing or ())).max() > SAME_SPACING:
        return "mixed_spacing"
    return "too_few_slices"


def _flags(family: Sequence[Slice], families: Sequence[Sequence[Slice]]) -> dict[str, str]:
    """Return the warnings for the user about these slices."""
    flags: dict[str, str] = {}
    first = family[0].header
    alike = [one[0].header for one in families if one[0].header.image_type == first.image_type]
    normals = np.array([geometry.slice_normal(header.orientation or ()) for header in alike])
    if "LOCALIZER" in first.image_type:
        flags["localizer"] = "by_image_type"
    elif "PROJECTION IMAGE" in first.image_type:
        flags["projection"] = "by_image_type"
    elif np.abs(normals @ normals.T).min() < OTHER_PLANE:
        flags["localizer"] = "by_geometry"
    if first.image_type[:1] == ("DERIVED",):
        flags["derived"] = "by_image_type"
    if first.inverted_display:
        flags[PHOTOMETRIC] = "monochrome1"
    headers = [one.header for one in family]
    names = ("image_type", "echo_time")
    mixed = [name for name in names if len({getattr(one, name) for one in headers}) > 1]
    if len({(one.raw.bits, one.raw.signed) for one in headers if one.raw}) > 1:
        mixed.append("bits_stored")
    if first.modality == "CT" and len({(one.slope, one.intercept) for one in headers}) > 1:
        mixed.append("rescale")
    return flags | unit_flag(headers) | ({"mixed_values": " ".join(mixed)} if mixed else {})


def _few_slices(slices: Sequence[Slice], flags: Mapping[str, str]) -> list[SliceGroup]:
    """Return one or two slices as single images, or as a volume if two are close to each other."""
    scout = "localizer" in flags or "projection" in flags
    noted = dict(flags) if scout else {**flags, "few_slices": str(len(slices))}
    thickness = slices[0].header.thickness or 0.0
    distance = float(np.ptp(heights_of(slices)))
    close = 0.01 < distance <= FAR_APART * max(thickness, slices[0].header.slice_step or 0.0)
    if len(slices) == 1 or scout or not close:
        return [single_image(one, noted) for one in slices]
    stack = classify_stack(list(slices))
    return [replace(stack, flags=noted) if isinstance(stack, SliceStack) else stack]


def single_image(one: Slice, flags: Mapping[str, str]) -> SingleImage:
    """Return a slice as a single image; without a position in space, its rows run to the patient's left."""
    header = one.header
    spacing = header.spacing if header.spacing and min(header.spacing) > 0 else None
    known = {} if spacing else {"spacing": "unknown"}
    spacing = spacing or (1.0, 1.0)
    placed = header.kind != "picture"
    affine = geometry.slice_affine(
        (header.orientation if placed else None) or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing,
        (header.position if placed else None) or (0.0, 0.0, 0.0),
    )
    thickness = header.thickness if header.thickness and header.thickness < MAX_SPACING_MM else 0.0
    affine[:3, 2] *= max(*spacing, thickness)  # 2D slices are cut across the longest step
    return SingleImage((one,), affine, {**flags, **known}, header.repairs)
