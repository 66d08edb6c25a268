"""Convolutions of packed cells: each cell is convolved together with a halo gathered from its neighbours.

Three implementations give the same result: kernels of one voxel are one matrix product over all visible
voxels; cells of a few voxels are gathered row by row for each kernel position (im2col), followed by a matrix
product; larger cells are gathered with their halo and convolved without padding. The gradient of the last is
computed the same way, from the halo of the output gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmim.encoders.packed.cells import (
    CellLayout,
    PackedCells,
    cells_from_rows,
    channels_innermost,
    gather,
    rows_from_cells,
)
from medmim.encoders.packed.window import WindowGeometry, window_geometry

_SMALL = 4  # cells of up to this many voxels are faster with im2col (measured)
_GROUP = 16  # pseudo-batch size below which PyTorch does not use its fast 1×1 kernel on one thread


def conv(
    func: Callable[..., Tensor],
    value: PackedCells,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> PackedCells:
    """Convolve; the cells of the result have the same grid and 1 / stride of the size."""
    name = func.__name__
    value.require_channels_first(name)
    kernel = tuple(weight.shape[2:])
    reach = window_geometry(name, value, kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    values, weight, bias = _autocast(value.values, weight, bias)
    if prod(kernel) == 1:
        every = tuple(slice(None, None, step) for step in reach.stride)
        values = values[:, :, *every]
        if groups == 1:
            rows = pointwise(rows_from_cells(values), weight.flatten(1), bias)
            return value.from_rows(rows, tuple(values.shape[2:]))
        return value.like(func(values, weight, bias, groups=groups))
    if groups == 1 and prod(reach.out) <= _SMALL:
        rows = _RowConv.apply(values, weight.flatten(2), reach, value.layout)  # type: ignore[no-untyped-call]
        return value.from_rows(rows if bias is None else rows + bias, reach.out)
    result = _HaloConv.apply(values, weight, bias, _ConvHalo(reach, value.layout, groups))  # type: ignore[no-untyped-call]
    return value.like(result)


def pointwise(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return rows · weightᵀ + bias; on CPUs as a 1×1 convolution, which can be twice as fast as a product."""
    if rows.device.type != "cpu":
        return F.linear(rows, weight, bias)
    return rows_from_cells(F.conv2d(_as_images(rows), weight[..., None, None], bias))


def _as_images(rows: Tensor) -> Tensor:
    group = _GROUP if len(rows) % _GROUP == 0 else 1
    # add the axis of size 1 before moving channels: PyTorch checks its stride too
    return rearrange(rows.reshape(group, -1, 1, rows.shape[1]), "group row one c -> group c row one")


def _autocast(values: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast does for a convolution; which does not cover our autograd functions."""
    kind = values.device.type
    if not torch.is_autocast_enabled(kind) or values.dtype == torch.float64:
        return values, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return values.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _RowConv(torch.autograd.Function):
    """Convolution by im2col: gather the rows of all kernel positions, then one matrix product."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, reach: WindowGeometry, layout: CellLayout
    ) -> Tensor:
        """Return (visible voxels of the result, out channels) from (visible, channels, *cell).

        The weight is (out channels, channels, kernel positions).
        """
        ctx.save_for_backward(values, weight)
        ctx.reach, ctx.layout = reach, layout
        return pointwise(*_aligned(values, weight, reach, layout), None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of values and weight."""
        values, weight = ctx.saved_tensors
        rows, flat = _aligned(values, weight, ctx.reach, ctx.layout)
        of_rows, of_flat = _pointwise_gradients(gradient, rows, flat, ctx.needs_input_grad[:2])
        taps_last, taps = _taps_last(len(rows), weight), weight.shape[2]
        of_values = of_weight = None
        if of_rows is not None:
            read = rearrange(of_rows, "r (c t) -> r (t c)", t=taps) if taps_last else of_rows
            of_values = _add_up(read, ctx.reach, ctx.layout)
        if of_flat is not None:
            of_weight = rearrange(of_flat, "o (c t) -> o c t" if taps_last else "o (t c) -> o c t", t=taps)
        return of_values, of_weight, None, None


def _aligned(
    values: Tensor, weight: Tensor, reach: WindowGeometry, layout: CellLayout
) -> tuple[Tensor, Tensor]:
    """Return the inputs of each output voxel as a row, and the weight in the same order.

    Rows are gathered position by position and weights stored channel by channel; the smaller is transposed.
    """
    read = gather(values, layout.table(reach.windows)).flatten(0, 1)
    if _taps_last(len(read), weight):
        return rearrange(read, "r t c -> r (c t)"), weight.flatten(1)
    return read.flatten(1), rearrange(weight, "o c t -> o (t c)")


def _taps_last(rows: int, weight: Tensor) -> bool:
    return rows < weight.shape[0]


def _pointwise_gradients(
    gradient: Tensor, rows: Tensor, weight: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `pointwise` in its rows and weight."""
    if rows.device.type != "cpu":
        return gradient @ weight if needs[0] else None, gradient.t() @ rows if needs[1] else None
    of_images, of_weight, _ = torch.ops.aten.convolution_backward(
        _as_images(gradient.contiguous()), _as_images(rows), weight[..., None, None], None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [needs[0], needs[1], False],
    )  # fmt: skip
    return rows_from_cells(of_images) if needs[0] else None, of_weight.flatten(1) if needs[1] else None


def _add_up(read: Tensor, reach: WindowGeometry, layout: CellLayout) -> Tensor:
    """Sum, for each voxel, the gradients of all windows that read it."""
    table = layout.table(reach.windows)
    sums = read.new_zeros(len(table) * prod(reach.cell) + 2, read.shape[1] // table.shape[2])
    sums.index_add_(0, table.flatten(), read.reshape(-1, sums.shape[1]))
    return cells_from_rows(sums[:-2], reach.cell)


@dataclass(frozen=True)
class _ConvHalo:
    """The geometry of a convolution of cells with their halo."""

    reach: WindowGeometry
    layout: CellLayout
    groups: int

    def read(self, values: Tensor) -> Tensor:
        """Return cells with their halo."""
        table = self.layout.table(self.reach.halo)
        return cells_from_rows(gather(values, table).flatten(0, 2), self.reach.halo_space)

    def read_gradient(self, gradient: Tensor) -> Tensor:
        """Return the output gradient at all voxels that read each cell."""
        table = self.layout.table(self.reach.gradient_halo)
        return cells_from_rows(gather(gradient, table).flatten(0, 2), self.reach.gradient_halo_space)


class _HaloConv(torch.autograd.Function):
    """Convolution of each cell with its halo, without padding; the backward gathers halos again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, halo: _ConvHalo) -> Tensor:
        """Return (visible, out channels, *cell of the result) from (visible, channels, *cell)."""
        ctx.save_for_backward(values, weight)
        ctx.halo, ctx.bias = halo, None if bias is None else list(bias.shape)
        reach, none = halo.reach, [0] * len(halo.reach.cell)
        return torch.convolution(
            halo.read(values), weight, bias, reach.stride, none, reach.dilation, False, none, halo.groups
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of values, weight and bias."""
        values, weight = ctx.saved_tensors
        halo: _ConvHalo = ctx.halo
        reach, none = halo.reach, [0] * len(halo.reach.cell)
        needs_values, needs_weight, needs_bias, _ = ctx.needs_input_grad
        of_values = of_weight = of_bias = None
        if needs_values:
            blank = values.new_empty(len(values), *reach.gradient_space, values.shape[1]).movedim(-1, 1)
            of_values, _, _ = torch.ops.aten.convolution_backward(
                halo.read_gradient(gradient), blank, weight, None, reach.stride, reach.gradient_padding,
                reach.dilation, False, none, halo.groups, [True, False, False],
            )  # fmt: skip
            of_values = of_values[:, :, *(slice(size) for size in reach.cell)]
        if needs_weight or needs_bias:
            _, of_weight, of_bias = torch.ops.aten.convolution_backward(
                channels_innermost(gradient), halo.read(values), weight, ctx.bias, reach.stride, none,
                reach.dilation, False, none, halo.groups, [False, needs_weight, needs_bias],
            )  # fmt: skip
        return of_values, of_weight, of_bias, None
