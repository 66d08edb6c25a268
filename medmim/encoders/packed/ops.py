"""Operations of packed cells without neighbours: elementwise, concatenation, dropout, linear, axis order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.encoders.packed.cells import ADVICE, CellLayout, PackedCells, per_sample, rows_from_cells
from medmim.encoders.packed.conv import pointwise
from medmim.encoders.packed.norm_and_pool import mean_over_space
from medmim.errors import ShapeError, size_text


def elementwise(func: Callable[..., Tensor], value: PackedCells, *args: Any, **kwargs: Any) -> PackedCells:
    """Apply an elementwise operation."""
    return value.like(func(value.values, *args, **kwargs))


def prelu(func: Callable[..., Tensor], value: PackedCells, weight: Tensor) -> PackedCells:
    """Apply PReLU, whose weight has one entry per channel."""
    value.require_channels_first("prelu")
    return value.like(func(value.values, weight))


def combine(func: Callable[..., Tensor], first: Any, second: Any, **kwargs: Any) -> PackedCells:
    """Combine two packed values, or one and a number, parameter, per-sample gate or dense map."""
    packed = [operand for operand in (first, second) if isinstance(operand, PackedCells)]
    layout = shared_layout(packed)
    if len({value.last for value in packed}) > 1:
        raise ShapeError(f"'{func.__name__}' of packed cells, channels first and channels last: permute one")
    values = [_broadcast(operand, packed[0], layout) for operand in (first, second)]
    return packed[0].like(func(*values, **kwargs))


def _broadcast(operand: Any, packed: PackedCells, layout: CellLayout) -> Any:
    if isinstance(operand, PackedCells):
        return operand.values
    return per_sample(packed, operand) if isinstance(operand, Tensor) and operand.dim() else operand


def concatenate(
    func: Callable[..., Tensor], values: Sequence[Any], dim: int = 0, **kwargs: Any
) -> PackedCells:
    """Concatenate along channels.

    Raises:
        ShapeError: along another axis, or with values of another forward.
    """
    shared_layout(values)
    first: PackedCells = values[0]
    channels = first.dims + 1 if first.last else 1
    axis = kwargs.pop("axis", dim)
    if axis % (first.dims + 2) != channels or any(value.last != first.last for value in values):
        raise ShapeError(f"packed values are concatenated along channels (dim={channels}), got dim={axis}")
    return first.like(func([value.values for value in values], dim=1, **kwargs))


def divide(
    func: Callable[..., Sequence[Tensor]], value: PackedCells, size: Any, dim: int = 0
) -> tuple[PackedCells, ...]:
    """Chunk or split along channels."""
    channels = value.dims + 1 if value.last else 1
    if dim % (value.dims + 2) != channels:
        raise ShapeError(f"packed values are divided along channels (dim={channels}), got dim={dim}")
    return tuple(value.like(part) for part in func(value.values, size, dim=1))


def shared_layout(values: Sequence[Any]) -> CellLayout:
    """Return the common layout of all values.

    Raises:
        ShapeError: if there are several, or a value is not packed.
    """
    if not all(isinstance(value, PackedCells) and value.layout is values[0].layout for value in values):
        raise ShapeError("expected values of one forward, got values with different masks or without any")
    layout: CellLayout = values[0].layout
    return layout


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


def permute(func: Callable[..., Tensor], value: PackedCells, *order: Any, **kwargs: Any) -> PackedCells:
    """Move channels behind the spatial axes or back, without moving memory."""
    axes = kwargs.get("dims", order[0] if order and not isinstance(order[0], int) else order)
    count = value.dims + 2
    wanted = tuple(axis % count for axis in axes)
    to_last, to_first = (0, *range(2, count), 1), (0, count - 1, *range(1, count - 1))
    if wanted == tuple(range(count)):
        return value
    if wanted != (to_first if value.last else to_last):
        raise ShapeError(f"'permute' to {wanted} has no packed form, only channels last and back: {ADVICE}")
    return type(value)(value.values, value.layout, last=not value.last)


def movedim(func: Callable[..., Tensor], value: PackedCells, source: int, destination: int) -> PackedCells:
    """Move channels behind the spatial axes or back."""
    axes = list(range(value.dims + 2))
    axes.insert(destination % len(axes), axes.pop(source % len(axes)))
    return permute(func, value, axes)


def mean(
    func: Callable[..., Tensor], value: PackedCells, dim: int | Sequence[int] = (), keepdim: bool = False
) -> Tensor:
    """Return each sample's mean over its visible voxels as a plain tensor.

    Raises:
        ShapeError: for a mean over other axes than all spatial ones.
    """
    value.require_channels_first("mean")
    axes = (dim,) if isinstance(dim, int) else tuple(dim)
    if sorted(axis % (value.dims + 2) for axis in axes) != list(range(2, value.dims + 2)):
        raise ShapeError(f"'mean' over axes {axes} has no packed form, only over all spatial axes: {ADVICE}")
    return mean_over_space(value, keepdim=keepdim)


def select_channels(value: PackedCells, key: Any) -> PackedCells:
    """Index along channels, as in `x[:, :8]` or, with channels last, `x[..., :8]`."""
    keys = key if isinstance(key, tuple) else (key,)
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        missing = (slice(None),) * (value.dims + 3 - len(keys))
        keys = (*keys[:place], *missing, *keys[place + 1 :])
    keys = (*keys, *(slice(None),) * (value.dims + 2 - len(keys)))
    channels = value.dims + 1 if value.last else 1
    others = [each for axis, each in enumerate(keys) if axis != channels]
    if any(each != slice(None) for each in others) or not isinstance(keys[channels], slice | list):
        raise ShapeError(f"'indexing' with {key} has no packed form, only slices of channels: {ADVICE}")
    return value.like(value.values[:, keys[channels]])


def softmax(
    func: Callable[..., Tensor], value: PackedCells, dim: int | None = None, *args: Any, **kwargs: Any
) -> PackedCells:
    """Apply softmax over the channels of each voxel."""
    channels = value.dims + 1 if value.last else 1
    if dim is None or dim % (value.dims + 2) != channels:
        raise ShapeError(f"'softmax' over axis {dim} has no packed form, only over channels: {ADVICE}")
    return value.like(func(value.values, 1, *args, **kwargs))


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
    axes = sorted(axis % (value.dims + 2) for axis in ((dim,) if isinstance(dim, int) else dim or ()))
    first = 1 if value.last else 2
    others_given = any(other is not None for other in others.values())
    if others_given or p not in (2, None, "fro") or axes != list(range(first, first + value.dims)):
        raise ShapeError(
            f"'norm' of order {p} over axes {dim} has no packed form, only 2 over space: {ADVICE}"
        )
    samples = torch.split(value.values.flatten(2), list(value.layout.counts))
    norms = torch.stack([torch.linalg.vector_norm(cells, dim=(0, 2)) for cells in samples])
    if not keepdim:
        return norms
    ones = [1] * value.dims
    return norms.reshape(len(norms), *ones, -1) if value.last else norms.reshape(*norms.shape, *ones)


def cast(func: Callable[..., Tensor], value: PackedCells, *args: Any, **kwargs: Any) -> PackedCells:
    """Change dtype or device, or copy; the memory order is kept."""
    kwargs.pop("memory_format", None)
    return value.like(func(value.values, *args, **kwargs))


def new_tensor(func: Callable[..., Tensor], value: PackedCells, *args: Any, **kwargs: Any) -> Tensor:
    """Create a plain tensor of the same dtype and device (`new_zeros` and similar)."""
    return func(value.values, *args, **kwargs)
