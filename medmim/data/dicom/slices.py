"""Slices and groups of slices: a stack that becomes a volume, a single image, or rejected slices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from medmim.data.dicom.header import Header
from medmim.data.formats import geometry

PHOTOMETRIC = "photometric"  # flag of MONOCHROME1 images whose values are kept as stored


@dataclass(frozen=True)
class Slice:
    """One slice: the number of its file in the source, the file's path, and the slice's header."""

    number: int
    path: Path
    header: Header


@dataclass(frozen=True)
class SliceStack:
    """Slices in order along their normal, and their grid: (column, row, slice) to mm in RAS.

    `heights_mm` are the positions of unevenly spaced slices along the normal, from 0; the grid then has
    their mean spacing.
    """

    slices: tuple[Slice, ...]
    affine: geometry.Affine
    repairs: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    heights_mm: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return self.slices[0].header.columns, self.slices[0].header.rows, len(self.slices)


@dataclass(frozen=True)
class SingleImage:
    """One slice that belongs to no stack, or an image without a position in space, and its grid."""

    slices: tuple[Slice, ...]
    affine: geometry.Affine
    flags: Mapping[str, str]
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RejectedSlices:
    """Slices that form no volume, with the reason and the numbers that show it."""

    slices: tuple[Slice, ...]
    reason: str
    measured: Mapping[str, float]


SliceGroup = SliceStack | SingleImage | RejectedSlices


def reject(slices: Sequence[Slice], reason: str, /, **measured: float | int) -> RejectedSlices:
    """Return rejected slices with the numbers that show why."""
    return RejectedSlices(tuple(slices), reason, {name: float(value) for name, value in measured.items()})


def position_and_steps(header: Header) -> list[float]:
    """Return a slice's position and its row and column directions times spacing, in mm (LPS)."""
    (down, across), axes = header.spacing or (0.0, 0.0), header.orientation or ()
    steps = [cosine * across for cosine in axes[:3]] + [cosine * down for cosine in axes[3:]]
    return [*(header.position or ()), *steps]


def heights_of(slices: Sequence[Slice]) -> Float64[np.ndarray, "slices"]:
    """Return the position of each slice along the normal of the first, in mm."""
    positions = np.array([one.header.position for one in slices], np.float64)
    return np.asarray(positions @ geometry.slice_normal(slices[0].header.orientation or ()), np.float64)


def group_by(slices: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    """Group slices by a key, in the order of first occurrence."""
    groups: dict[Hashable, list[Slice]] = defaultdict(list)
    for one in slices:
        groups[key(one)].append(one)
    return list(groups.values())


def group_near(
    slices: Iterable[Slice], value: Callable[[Slice], Sequence[float]], tolerance: float
) -> list[list[Slice]]:
    """Group slices whose numbers agree with those of the group's first slice within `tolerance`."""
    groups: list[list[Slice]] = []
    for one in slices:
        for group in groups:
            if np.abs(np.subtract(value(one), value(group[0]))).max() <= tolerance:
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def unit_flag(headers: Sequence[Header]) -> dict[str, str]:
    """Return the units of PET and of CT that is not in HU, as a flag; slices may disagree."""
    units = {header.unit.lower() for header in headers if header.modality in ("CT", "PT")}
    return {"unit": " ".join(sorted(units - {""}))} if units - {"", "hu"} else {}
