"""Slabs of a volume whose probabilities do not fit in memory.

A slab is segmented on its own, by the same sliding windows as in the whole volume, so that its probabilities
are those of the whole volume. They are collected in a temporary file that is mapped into memory.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medmim.errors import DataError
from medmim.operating_system import reserve

_VALUE_BYTES = 4  # float32


@dataclass(frozen=True)
class Slab:
    """A part of one axis, in voxels.

    Attributes:
        start, stop: voxels whose probabilities are kept.
        first, last: voxels that the windows over them see.
    """

    start: int
    stop: int
    first: int
    last: int


def peak_bytes(classes: int, shape: Sequence[int]) -> int:
    """Return the memory for segmenting a volume at once: sums, their weights and normalised probabilities."""
    return 2 * (classes + 1) * math.prod(shape) * _VALUE_BYTES


def slabs_of(length: int, *, window: int, step: int, most: int) -> list[Slab]:
    """Divide an axis into slabs.

    Windows start at the multiples of `step`, and the last one ends at the end of the axis, as MONAI places
    them; all windows over the kept voxels of a slab are among those that start in it.

    Args:
        length: voxels of the axis.
        window: voxels of a window along the axis.
        step: between the starts of neighbouring windows.
        most: voxels that a slab may see. Each keeps one step at least, even if it sees more than that.
    """
    kept = max(1, (most - 2 * window) // step) * step
    if length <= max(most, window):
        return [Slab(0, length, 0, length)]
    slabs = []
    for start in range(0, length, kept):
        stop = min(start + kept, length)
        first = max(0, math.ceil((start - window + 1) / step) * step)
        first = min(first, (length - window) // step * step)
        last = (stop - 1) // step * step + window
        if stop > length - window or last > length:  # also seen by the window at the end of the axis
            last = length
        slabs.append(Slab(start, stop, first, last))
    return slabs


def tensor_in_file(shape: Sequence[int]) -> Tensor:
    """Return a float32 tensor of zeros in a temporary file without a name, deleted with the tensor.

    Raises:
        DataError: if the folder of temporary files has no room for it.
    """
    size = math.prod(shape) * _VALUE_BYTES
    with tempfile.TemporaryFile() as stream:
        try:
            reserve(stream, size)
        except OSError as error:
            raise DataError(
                f"'{tempfile.gettempdir()}' has no room for {size / 1e9:.1f} GB of probabilities "
                f"({error.strerror}): free space, set TMPDIR to another folder, or give more --max-memory",
                reason="no_room_for_probabilities",
            ) from error
        return torch.from_numpy(np.memmap(stream, dtype=np.float32, mode="r+", shape=tuple(shape)))
