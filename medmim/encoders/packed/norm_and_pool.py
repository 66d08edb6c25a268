"""Norms and pooling of packed cells.

Cells contain visible voxels only, so that batch norm runs on them unchanged; instance and group norm run on
the cells of each sample separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medmim.encoders.packed.cells import (
    CellLayout,
    PackedCells,
    cells_from_rows,
    gather,
    rows_from_cells,
)
from medmim.encoders.packed.window import WindowGeometry, window_geometry
from medmim.errors import ShapeError


def batch_norm(
    func: Callable[..., Tensor],
    value: PackedCells,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    **norm: Any,
) -> PackedCells:
    """Normalise each channel over the visible voxels of all samples.

    Raises:
        ShapeError: for training on a single voxel, whose variance is undefined.
    """
    value.require_channels_first("batch_norm")
    voxels = len(value.values) * prod(value.cell)
    if norm.get("training") and voxels < 2:
        raise ShapeError(
            f"batch norm over {voxels} visible voxel of a {tuple(value.shape)} map: expected at least 2; use "
            "a larger --batch-size or --size, or a lower --ratio"
        )
    return value.like(func(value.values, running_mean, running_var, **norm))


def instance_norm(func: Callable[..., Tensor], value: PackedCells, **norm: Any) -> PackedCells:
    """Normalise each sample's channels over its visible voxels."""
    value.require_channels_first("instance_norm")
    if norm.get("running_mean") is not None or not norm.get("use_input_stats", True):
        raise ShapeError(
            "instance norm with running statistics has no packed form: use track_running_stats=False"
        )
    weight, bias, eps = norm.get("weight"), norm.get("bias"), norm.get("eps", 1e-5)
    return _each_sample(value, lambda cells: _channel_norm(cells, weight, bias, eps))


def group_norm(
    func: Callable[..., Tensor],
    value: PackedCells,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> PackedCells:
    """Normalise each sample's groups of channels over its visible voxels."""
    value.require_channels_first("group_norm")
    if num_groups == value.values.shape[1]:
        return _each_sample(value, lambda cells: _channel_norm(cells, weight, bias, eps))

    def norm(cells: Tensor) -> Tensor:
        # native kernels reduce over contiguous memory: the sample's voxels of each channel
        rows = rows_from_cells(cells).t().unsqueeze(0)
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        normed = func(wide.contiguous(), num_groups, weight, bias, eps).to(cells.dtype)
        return cells_from_rows(normed[0].t().contiguous(), tuple(cells.shape[2:]))

    return _each_sample(value, norm)


def _each_sample(value: PackedCells, norm: Callable[[Tensor], Tensor]) -> PackedCells:
    """Apply a norm to the visible cells of each sample."""
    samples = torch.split(value.values, list(value.layout.counts))
    return value.like(torch.cat([norm(cells) for cells in samples]))


def _channel_norm(cells: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise each channel over all cells; a single voxel, which batch norm rejects, becomes zero."""
    if len(cells) * prod(cells.shape[2:]) > 1:
        return F.batch_norm(cells, None, None, weight, bias, training=True, eps=eps)
    zero = cells - cells
    scaled = zero if weight is None else zero * weight.reshape(1, -1, *[1] * (cells.dim() - 2))
    return scaled if bias is None else scaled + bias.reshape(1, -1, *[1] * (cells.dim() - 2))


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
