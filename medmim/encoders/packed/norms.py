"""Norms of packed cells over visible voxels only, computed by PyTorch's own kernels.

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

from medmim.encoders.packed.cells import ADVICE, PackedCells, cells_from_rows, rows_from_cells
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


def layer_norm(
    func: Callable[..., Tensor],
    value: PackedCells,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> PackedCells:
    """Normalise the channels of each voxel; channels must be last.

    Raises:
        ShapeError: for a norm over more than the channels, which would include hidden voxels.
    """
    if not value.last or tuple(normalized_shape) != (value.values.shape[1],):
        raise ShapeError(
            f"'layer_norm' over {tuple(normalized_shape)} of packed cells: expected channels last and "
            f"the norm over the {value.values.shape[1]} channels alone; permute them, {ADVICE}"
        )
    return value.from_rows(func(rows_from_cells(value.values), normalized_shape, weight, bias, eps))


def rms_norm(
    func: Callable[..., Tensor],
    value: PackedCells,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> PackedCells:
    """Divide the channels of each voxel by their root mean square; channels must be last."""
    if not value.last or tuple(normalized_shape) != (value.values.shape[1],):
        raise ShapeError(
            f"'rms_norm' over {tuple(normalized_shape)} of packed cells: expected channels last and the norm "
            f"over the {value.values.shape[1]} channels alone; permute them, {ADVICE}"
        )
    return value.from_rows(func(rows_from_cells(value.values), normalized_shape, weight, eps))


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
