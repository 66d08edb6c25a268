"""Operations of packed cells without neighbours: elementwise, dropout, linear, means and norms over space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.encoders.packed.cells import PackedCells, rows_from_cells
from medmim.encoders.packed.conv import pointwise
from medmim.encoders.packed.norm_and_pool import mean_over_space
from medmim.encoders.shared_forms import require_l2, require_space, with_space
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


def mean(
    func: Callable[..., Tensor], value: PackedCells, dim: int | Sequence[int] = (), keepdim: bool = False
) -> Tensor:
    """Return each sample's mean over its visible voxels as a plain tensor.

    Raises:
        ShapeError: for a mean over other axes than all spatial ones.
    """
    value.require_channels_first("mean")
    require_space(func, value, dim)
    return mean_over_space(value, keepdim=keepdim)


def spatial_norm(
    func: Callable[..., Tensor],
    value: PackedCells,
    p: int | float | str | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **others: Any,
) -> Tensor:
    """Return each sample's L2 norm over its visible voxels as a plain tensor, as in GRN of ConvNeXt V2.

    Raises:
        ShapeError: for another order or over other axes than all spatial ones.
    """
    require_space(func, value, dim)
    require_l2(value, p, list(others.values()))
    samples = torch.split(value.values.flatten(2), list(value.layout.counts))
    norms = torch.stack([torch.linalg.vector_norm(cells, dim=(0, 2)) for cells in samples])
    return with_space(norms, value, keepdim=keepdim)
