"""What becomes of slices: a stack, a picture or a refusal; and how a heap of slices is parted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medmim.data.dicom.header import Header
from medmim.data.formats import geometry


@dataclass(frozen=True)
class Slice:
    """One file with its place in the walk."""

    number: int
    path: Path
    header: Header


@dataclass(frozen=True)
class SliceStack:
    """Slices in order along their normal, and their grid: (column, row, slice) to mm in RAS."""

    slices: tuple[Slice, ...]
    affine: geometry.Affine
    repairs: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.slices[0].header.columns, self.slices[0].header.rows, len(self.slices)


@dataclass(frozen=True)
class RejectedSlices:
    """Slices that form no volume, why, and the numbers that show it."""

    slices: tuple[Slice, ...]
    reason: str
    measured: Mapping[str, float]


@dataclass(frozen=True)
class SingleImage:
    """One slice that belongs to no stack, or a picture that lies nowhere in space, and its grid."""

    slices: tuple[Slice, ...]
    affine: geometry.Affine
    flags: Mapping[str, str]


Verdict = SliceStack | RejectedSlices | SingleImage


def refuse(slices: Sequence[Slice], reason: str, /, **measured: float | int) -> RejectedSlices:
    """Return the refusal of slices, with the numbers that show why."""
    return RejectedSlices(tuple(slices), reason, {name: float(value) for name, value in measured.items()})


def own_place(header: Header) -> list[float]:
    """Return position, row direction and column direction times spacing, by the header, in mm (LPS)."""
    (down, across), axes = header.spacing or (0.0, 0.0), header.orientation or ()
    steps = [cosine * across for cosine in axes[:3]] + [cosine * down for cosine in axes[3:]]
    return [*(header.position or ()), *steps]


def parted(slices: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    """Part slices by what `key` says of them, in the order of its first words."""
    parts: dict[Hashable, list[Slice]] = defaultdict(list)
    for one in slices:
        parts[key(one)].append(one)
    return list(parts.values())


def split(slices: Iterable[Slice], test: Callable[[Slice], bool]) -> tuple[list[Slice], list[Slice]]:
    """Return the slices that pass a test, and the others."""
    parts: tuple[list[Slice], list[Slice]] = ([], [])
    for one in slices:
        parts[not test(one)].append(one)
    return parts


def near(
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
