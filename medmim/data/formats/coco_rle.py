"""Run-length encoded masks in COCO's format: counts of pixels outside, inside, outside and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from medmim.data.formats.images import MAX_PIXELS

_OFFSET, _BITS, _MORE, _SIGN = 48, 5, 0x20, 0x10  # each character of COCO's string carries five bits


def decode_runs(packed: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the run lengths of a mask, and its columns and rows.

    Args:
        packed: COCO's `size` (rows, columns) and `counts`: a list, or a compressed string.

    Raises:
        ValueError: if the runs do not add up to the size.
    """
    rows, columns = (int(length) for length in packed["size"])
    counts = packed["counts"]
    runs = _decompress(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if not 0 < rows * columns <= MAX_PIXELS or sum(runs) != rows * columns or min(rows, *runs) < 0:
        raise ValueError("runs that do not add up to the mask size")
    return tuple(runs), (columns, rows)


def mask_from_runs(runs: Sequence[int], size: Sequence[int]) -> Bool[np.ndarray, "x y"]:
    """Return the mask of shape (columns, rows).

    Args:
        runs: pixels outside, inside, outside and so on, column by column.
        size: columns and rows.
    """
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, np.asarray(runs, np.int64)).reshape(tuple(size))


def _decompress(letters: str) -> list[int]:
    """Return the runs of COCO's string; from the fourth on it stores differences to the run two before."""
    runs: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = ord(letter) - _OFFSET
        value |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
