"""Private elements of vendors: b-values, parts of complex values, and the row order of GE's volumes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pydicom
from pydicom.tag import BaseTag, Tag

_B_VALUES = (
    (Tag(0x0019, 0x0010), "SIEMENS MR HEADER", Tag(0x0019, 0x100C)),
    (Tag(0x0043, 0x0010), "GEMS_PARM_01", Tag(0x0043, 0x1039)),
    (Tag(0x2001, 0x0010), "Philips Imaging DD 001", Tag(0x2001, 0x1003)),
)
_SIEMENS_MOSAIC = (Tag(0x0019, 0x0010), Tag(0x0019, 0x100A), Tag(0x0029, 0x0010), Tag(0x0029, 0x1010))
GRID_COUNT = Tag(0x0065, 0x1050)  # United Imaging: number of slices that one image contains
GRID_FRAMES = Tag(0x0065, 0x1051)  # United Imaging: one item for each of these slices
_GE_OWNER, _GE_PART = Tag(0x0043, 0x0010), Tag(0x0043, 0x102F)
_GE_PARTS = {0: (), 1: ("PHASE",), 2: ("REAL",), 3: ("IMAGINARY",)}
_GE_ACQUISITION, _GE_SEQUENCE, _GE_POLARITY = Tag(0x0019, 0x0010), Tag(0x0019, 0x109C), Tag(0x0019, 0x10B3)
_GE_B_VALUE_OFFSET = 1e5  # GE adds multiples of this number to a b-value

VENDOR_TAGS = (
    *(tag for creator, _, value in _B_VALUES for tag in (creator, value)),
    *_SIEMENS_MOSAIC,
    *(GRID_COUNT, GRID_FRAMES, _GE_OWNER, _GE_PART, _GE_ACQUISITION, _GE_SEQUENCE, _GE_POLARITY),
)


def private_text(dataset: pydicom.Dataset, tag: BaseTag) -> str:
    """Return the value of a private element as text, or an empty text; its type cannot be relied on."""
    value = dataset[tag].value if tag in dataset else ""
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")


def private_b_value(dataset: pydicom.Dataset) -> float | None:
    """Return the b-value in s/mm² from a vendor's element, or None."""
    for creator, owner, tag in _B_VALUES:
        if tag in dataset and private_text(dataset, creator) == owner:
            return _first_number(dataset[tag].value)
    return None


def complex_part(dataset: pydicom.Dataset) -> tuple[str, ...]:
    """Return the part of a complex value that GE stores here and that the image type does not name."""
    if _GE_PART not in dataset or private_text(dataset, _GE_OWNER) != "GEMS_PARM_01":
        return ()
    value = dataset[_GE_PART].value
    if isinstance(value, bytes):
        value = int.from_bytes(value[:2], "little", signed=True)
    return _GE_PARTS.get(int(value), ("OTHER_PART",))


def has_reversed_rows(dataset: pydicom.Dataset, volume: int) -> bool:
    """Return whether GE's `epi_pepolar` sequence stored this volume upside down, against its own header.

    The sequence acquires volumes with either phase-encoding polarity and stores the reversed ones with their
    rows in reverse order. Scheme 1: all volumes are reversed; 2: the odd ones; 3: the even ones.

    Args:
        dataset: the allowed elements of a file.
        volume: number of the volume in its series, from 1; 0 if unknown.
    """
    if "GEMS_ACQU_01" not in private_text(dataset, _GE_ACQUISITION):
        return False
    if "epi_pepolar" not in private_text(dataset, _GE_SEQUENCE):
        return False
    scheme = _first_number(private_text(dataset, _GE_POLARITY))
    return scheme == 1 or (volume > 0 and (scheme, volume % 2) in ((2, 1), (3, 0)))


def _first_number(value: Any) -> float | None:
    """Return the number at the start of a private element."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if len(value) else ""
    found = re.match(r"\s*-?\d+(\.\d+)?", str(value))
    return float(found.group()) % _GE_B_VALUE_OFFSET if found else None
