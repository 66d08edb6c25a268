"""Repeated positions: the attributes and numbers that separate time points, phases and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medmim.data.dicom.slice_spacing import MIN_SLICES, classify_stack
from medmim.data.dicom.slices import RejectedSlices, Slice, SliceStack, group_by, heights_of, reject

SAME_PLACE_MM = 0.01
_MIN_FILLED = 0.7  # fraction of the positions between its ends that a part must have

_ATTRIBUTES: tuple[tuple[str, ...], ...] = (
    ("temporal_position",), ("gradient",), ("trigger_time",), ("inversion_time",), ("flip_angle",),
    ("acquisition",), ("kernel",), ("kvp",), ("acquisition", "kernel", "kvp"),
    ("temporal_position", "gradient", "trigger_time", "inversion_time", "acquisition"),
    ("acquisition_time",), ("frame_time",),
)  # fmt: skip


def split_repeats(
    slices: list[Slice], *, compared: bool = True, uneven: bool = False
) -> list[SliceStack | RejectedSlices]:
    """Split slices into groups with one slice at each position, and classify each group.

    Args:
        slices: of one direction, size and pixel spacing.
        compared: whether slices at one position have been compared; without it, only attributes that split
            all slices into equal parts are used.
    """
    counts = place_counts(slices)
    if max(counts) == 1:
        return [_classify(slices, uneven=uneven)]
    if parts := _by_attribute(slices, equal=True):
        return [_classify(part, uneven=uneven) for part in parts]
    if compared and (parts := _by_attribute(slices, equal=False)):
        return [_noted(_classify(part, uneven=uneven), flag="unequal_repeats") for part in parts]
    if compared and (parts := _by_number(slices, counts)):
        return [_noted(_classify(part), repair="repeats_by_number") for part in parts]
    if compared and len(set(counts)) == 1 and len(counts) >= MIN_SLICES:
        return [reject(slices, "repeats_not_told_apart", positions=len(counts), repeats=counts[0])]
    return [reject(slices, "duplicate_position", duplicates=sum(counts) - len(counts))]


def place_counts(slices: Sequence[Slice]) -> list[int]:
    """Return the number of slices at each position along the normal."""
    heights = np.sort(heights_of(slices))
    starts = np.flatnonzero(np.diff(heights, prepend=-np.inf) > SAME_PLACE_MM)
    return [int(count) for count in np.diff([*starts, len(heights)])]


def _noted(
    group: SliceStack | RejectedSlices, *, repair: str = "", flag: str = ""
) -> SliceStack | RejectedSlices:
    if not isinstance(group, SliceStack):
        return group
    flags = {**group.flags, **({flag: "yes"} if flag else {})}
    return replace(group, repairs=(*group.repairs, *([repair] if repair else [])), flags=flags)


def _classify(slices: list[Slice], *, uneven: bool = False) -> SliceStack | RejectedSlices:
    """Classify slices at different positions; their rescale values and header repairs are checked too."""
    filled, repairs = _fill_rescale(slices)
    if filled is None:
        missing = sum(not one.header.rescaled for one in slices)
        return reject(slices, "rescale_missing", missing=missing, slices=len(slices))
    if 0 < (inverted := sum(one.header.inverted_display for one in slices)) < len(slices):
        return reject(slices, "mixed_photometric", monochrome1=inverted, slices=len(slices))
    stack = classify_stack(filled, uneven=uneven)
    if not isinstance(stack, SliceStack):
        return stack
    found = {repair for one in filled for repair in one.header.repairs}
    if any(one.header.reversed_rows for one in filled):
        found.add("rows_reversed")
    return replace(stack, repairs=(*stack.repairs, *repairs, *sorted(found)))


def _fill_rescale(slices: list[Slice]) -> tuple[list[Slice] | None, tuple[str, ...]]:
    """Give slices without rescale values those of the others, if these are equal and the majority.

    Returns:
        The slices, or None if the missing values are unknown; and the repair.
    """
    scales = {(one.header.slope, one.header.intercept) for one in slices if one.header.rescaled}
    missing = [one for one in slices if not one.header.rescaled]
    if not missing or not scales or scales == {(1.0, 0.0)}:
        return slices, ()
    if len(scales) > 1 or 2 * len(missing) >= len(slices):
        return None, ()
    slope, intercept = next(iter(scales))
    scale = {"slope": slope, "intercept": intercept}
    filled = [
        one if one.header.rescaled else replace(one, header=one.header.model_copy(update=scale))
        for one in slices
    ]
    return filled, ("rescale_filled",)


def _ranks(slices: Sequence[Slice]) -> dict[int, int]:
    """Return the rank of each slice's position along the normal, by the slice's id."""
    heights = heights_of(slices)
    order = np.argsort(heights, kind="stable")
    ranks = np.empty(len(slices), int)
    ranks[order] = np.cumsum(np.diff(heights[order], prepend=heights[order[0]]) > SAME_PLACE_MM)
    return {id(one): int(rank) for one, rank in zip(slices, ranks, strict=True)}


def _by_attribute(slices: Sequence[Slice], *, equal: bool) -> list[list[Slice]] | None:
    """Return the parts of the first attribute that splits slices into volumes, or None.

    Args:
        slices: with several at one position.
        equal: parts must have the same number of slices at neighbouring positions; else the lengths may
            differ, and single slices may be missing.
    """
    ranks = _ranks(slices)
    for names in _ATTRIBUTES:
        parts = group_by(slices, lambda one: tuple(getattr(one.header, name) for name in names))  # noqa: B023
        if _are_volumes(parts, ranks, equal=equal):
            return parts
    return None


def _are_volumes(parts: Sequence[Sequence[Slice]], ranks: dict[int, int], *, equal: bool) -> bool:
    """Return whether each part has neighbouring positions once each.

    Attributes that separate slices need not be time: slices that are acquired together, or each by itself,
    share a trigger time that no volume has.
    """
    least = min(MIN_SLICES, max(ranks.values()) + 1)
    if len(parts) < 2 or min(map(len, parts)) < least or (equal and len({len(part) for part in parts}) > 1):
        return False
    filled = []
    for part in parts:
        found = {ranks[id(one)] for one in part}
        if len(found) < len(part):
            return False
        filled.append(len(part) / (max(found) - min(found) + 1))
    return min(filled) == 1.0 if equal else max(filled) == 1.0 and min(filled) >= _MIN_FILLED


def _by_number(slices: Sequence[Slice], counts: Sequence[int]) -> list[list[Slice]] | None:
    """Split by instance number, or return None."""
    numbers = [one.header.number for one in slices]
    if None in numbers or len(set(numbers)) < len(numbers):
        return None
    return _by_rank(slices, counts[0]) if len(set(counts)) == 1 else _sequential(slices)


def _by_rank(slices: Sequence[Slice], repeats: int) -> list[list[Slice]]:
    """Split by instance number: the k-th slice of each position is in the k-th volume."""
    ordered = [slices[place] for place in np.argsort(heights_of(slices), kind="stable")]
    places = [ordered[start : start + repeats] for start in range(0, len(ordered), repeats)]
    numbered = [sorted(place, key=lambda one: one.header.number or 0.0) for place in places]
    return [[place[turn] for place in numbered] for turn in range(repeats)]


def _sequential(slices: Sequence[Slice]) -> list[list[Slice]] | None:
    """Split by instance number: a volume ends before the first position that it would have twice."""
    ranks = _ranks(slices)
    parts: list[list[Slice]] = [[]]
    for one in sorted(slices, key=lambda one: one.header.number or 0.0):
        if ranks[id(one)] in {ranks[id(other)] for other in parts[-1]}:
            parts.append([])
        parts[-1].append(one)
    return parts if _are_volumes(parts, ranks, equal=False) else None
