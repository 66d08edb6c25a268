"""Operations of packed cells without neighbours: elementwise, dropout, pixel shuffle, linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medmim.encoders.packed.cells import PackedCells, rows_from_cells
from medmim.encoders.packed.conv import pointwise
from medmim.encoders.tensor_like import ADVICE
from medmim.errors import ShapeError, size_text


def elementwise(func: Callable[..., Tensor], value: PackedCells, *args: Any, **kwargs: Any) -> PackedCells:
    """Apply an elementwise operation."""
    return value.like(func(value.values, *args, **kwargs))


def prelu(func: Callable[..., Tensor], value: PackedCells, weight: Tensor) -> PackedCells:
    """Apply PReLU, whose weight has one entry per channel."""
    value.require_channels_first("prelu")
    return value.like(func(value.values, weight))


def channel_dropout(
    func: Callable[..., Tensor],
    value: PackedCells,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> PackedCells:
    """Drop whole channels of a sample, the same in all its cells."""
    value.require_channels_first(func.__name__)
    ones = value.values.new_ones(value.layout.batch, value.values.shape[1], *[1] * value.dims)
    return value.like(value.values * F.dropout(ones, p, training)[value.layout.sample])


def within_cells(func: Callable[..., Tensor], value: PackedCells, factor: int) -> PackedCells:
    """Exchange voxels for channels or back (pixel shuffle), which stays inside a cell.

    Raises:
        ShapeError: for cells that the factor does not divide.
    """
    value.require_channels_first(func.__name__)
    if "unshuffle" in func.__name__ and any(length % factor for length in value.cell):
        cell = size_text(value.cell)
        raise ShapeError(
            f"'{func.__name__}' by {factor} of cells of {cell} voxels has no packed form: use a larger --cell"
        )
    return value.like(func(value.values, factor))


def linear(
    func: Callable[..., Tensor], value: PackedCells, weight: Tensor, bias: Tensor | None = None
) -> PackedCells:
    """Apply a linear layer to the channels of each voxel; channels must be last."""
    if not value.last:
        raise ShapeError(f"'linear' on packed cells with channels first: permute them to the end, {ADVICE}")
    return value.from_rows(pointwise(rows_from_cells(value.values), weight, bias))
