"""Pooling of packed cells: hidden voxels are zero, voxels outside the image are padded as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmim.encoders.packed.cells import ADVICE, PackedCells, cells_from_rows, gather
from medmim.encoders.packed.layout import CellLayout
from medmim.encoders.packed.window import WindowGeometry, window_geometry
from medmim.errors import ShapeError

_Sizes = int | Sequence[int]


def max_pool(
    func: Callable[..., Tensor],
    value: PackedCells,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> PackedCells:
    """Return each window's maximum; voxels outside the image are -inf.

    With `return_indices`, PyTorch calls another function, which has no packed form.
    """
    reach = _reach(func, value, kernel_size, stride, padding, dilation=dilation, ceil_mode=ceil_mode)
    haloed = _with_halo(value, reach, outside=-float("inf"))
    return value.like(func(haloed, reach.kernel, reach.stride, 0, reach.dilation))


def avg_pool(
    func: Callable[..., Tensor],
    value: PackedCells,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> PackedCells:
    """Return each window's mean; hidden voxels are zeros, as on masked values."""
    reach = _reach(func, value, kernel_size, stride, padding, ceil_mode=ceil_mode)
    total = func(_with_halo(value, reach, outside=0.0), reach.kernel, reach.stride, divisor_override=1)
    if divisor_override is not None:
        return value.like(total / divisor_override)
    if count_include_pad or reach.stays_inside:
        return value.like(total / prod(reach.kernel))
    table = value.layout.table(reach.halo)
    outside = len(value.values) * prod(reach.cell) + 1
    inside = cells_from_rows((table != outside).reshape(-1, 1).to(total.dtype), reach.halo_space)
    return value.like(total / func(inside, reach.kernel, reach.stride, divisor_override=1))


def mean_over_space(value: PackedCells, *, keepdim: bool) -> Tensor:
    """Return each sample's mean over its visible voxels, (batch, channels), a plain tensor."""
    sums = value.values.flatten(2).mean(dim=2)
    parts = [cells.mean(dim=0) for cells in torch.split(sums, list(value.layout.counts))]
    means = torch.stack(parts)
    return means.reshape(*means.shape, *[1] * value.dims) if keepdim else means


def adaptive_avg_pool(
    func: Callable[..., Tensor], value: PackedCells, output_size: _Sizes, *_: Any, **__: Any
) -> Tensor:
    """Return the mean over visible voxels, for pooling to one voxel as in squeeze-and-excitation."""
    value.require_channels_first(func.__name__)
    sizes = (output_size,) if isinstance(output_size, int) else tuple(output_size)
    if any(size != 1 for size in sizes):
        raise ShapeError(f"'{func.__name__}' to {sizes} has no packed form, only to 1: {ADVICE}")
    return mean_over_space(value, keepdim=True)


def _reach(
    func: Callable[..., Tensor],
    value: PackedCells,
    kernel_size: _Sizes,
    stride: _Sizes | None,
    padding: _Sizes,
    **window: Any,
) -> WindowGeometry:
    value.require_channels_first(func.__name__)
    kernel = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    kernel = kernel * value.dims if len(kernel) == 1 else kernel
    steps = stride or kernel  # None or [] mean the kernel size
    return window_geometry(func.__name__, value, kernel=kernel, stride=steps, padding=padding, **window)


def _with_halo(value: PackedCells, reach: WindowGeometry, *, outside: float) -> Tensor:
    """Return cells with the halo that their windows read."""
    if reach.stays_inside:
        return value.values
    halo: Tensor = _PoolHalo.apply(value.values, reach, value.layout, outside)  # type: ignore[no-untyped-call]
    return halo


class _PoolHalo(torch.autograd.Function):
    """Gather cells with their halo; the gradient sums each voxel's copies with the transposed table."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, reach: WindowGeometry, layout: CellLayout, outside: float
    ) -> Tensor:
        """Return (visible, channels, *cell with its halo)."""
        ctx.reach, ctx.layout = reach, layout
        read = gather(values, layout.table(reach.halo), outside)
        return cells_from_rows(read.flatten(0, 2), reach.halo_space)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient of the values."""
        reach: WindowGeometry = ctx.reach
        table = ctx.layout.table(reach.halo_back)
        copies = gather(gradient, table).sum(dim=2)
        return cells_from_rows(copies.flatten(0, 1), reach.cell), None, None, None
