"""Forms of operations that masked and packed values compute alike: on channels and over space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.encoders.tensor_like import ADVICE, TensorLike
from medmim.errors import ShapeError


def permute(func: Callable[..., Any], value: TensorLike, *order: Any, **kwargs: Any) -> TensorLike:
    """Move channels behind the spatial axes or back; the memory does not change."""
    axes = kwargs.get("dims", order[0] if order and not isinstance(order[0], int) else order)
    count = value.dim()
    wanted = tuple(axis % count for axis in axes)
    if wanted == tuple(range(count)):
        return value
    if wanted != ((0, count - 1, *range(1, count - 1)) if value.last else (0, *range(2, count), 1)):
        raise value.unlike(f"'permute' to {wanted}", "only channels last and back")
    return value.reordered(last=not value.last)


def movedim(func: Callable[..., Any], value: TensorLike, source: int, destination: int) -> TensorLike:
    """Move channels behind the spatial axes or back."""
    axes = list(range(value.dim()))
    axes.insert(destination % len(axes), axes.pop(source % len(axes)))
    return permute(func, value, axes)


def combine(func: Callable[..., Tensor], first: Any, second: Any, **kwargs: Any) -> TensorLike:
    """Combine two values, or one and a number, parameter, per-sample gate or dense map."""
    values = [operand for operand in (first, second) if isinstance(operand, TensorLike)]
    require_one_forward(values)
    own = values[0]
    if len({value.last for value in values}) > 1:
        raise ShapeError(f"'{func.__name__}' of {own.noun}, channels first and channels last: permute one")
    return own.like(func(*(own.operand(func, one) for one in (first, second)), **kwargs))


def concatenate(
    func: Callable[..., Tensor], values: Sequence[Any], dim: int = 0, **kwargs: Any
) -> TensorLike:
    """Concatenate along channels.

    Raises:
        ShapeError: along another axis, or with values of another forward.
    """
    require_one_forward(values)
    first: TensorLike = values[0]
    axis = kwargs.pop("axis", dim)
    if axis % first.dim() != first.channels_axis or any(value.last != first.last for value in values):
        raise ShapeError(
            f"{first.noun} are concatenated along channels (dim={first.channels_axis}), got dim={axis}"
        )
    return first.like(func([value.stored for value in values], dim=1, **kwargs))


def divide(
    func: Callable[..., Sequence[Tensor]], value: TensorLike, size: Any, dim: int = 0
) -> tuple[TensorLike, ...]:
    """Chunk or split along channels."""
    if dim % value.dim() != value.channels_axis:
        raise ShapeError(
            f"{value.noun} are divided along channels (dim={value.channels_axis}), got dim={dim}"
        )
    return tuple(value.like(part) for part in func(value.stored, size, dim=1))


def softmax(
    func: Callable[..., Tensor], value: TensorLike, dim: int | None = None, *args: Any, **kwargs: Any
) -> TensorLike:
    """Apply softmax over the channels of each voxel."""
    if dim is None or dim % value.dim() != value.channels_axis:
        raise value.unlike(f"'softmax' over axis {dim}", "only over channels")
    return value.like(func(value.stored, 1, *args, **kwargs))


def cast(func: Callable[..., Tensor], value: TensorLike, *args: Any, **kwargs: Any) -> TensorLike:
    """Change dtype or device, copy, or detach; the memory order is kept."""
    kwargs.pop("memory_format", None)
    return value.like(func(value.stored, *args, **kwargs))


def new_tensor(func: Callable[..., Tensor], value: TensorLike, *args: Any, **kwargs: Any) -> Tensor:
    """Create a plain tensor of the same dtype and device (`new_zeros` and similar)."""
    return func(value.stored, *args, **kwargs)


def require_one_forward(values: Sequence[Any]) -> None:
    """Raise ShapeError for values of different forwards, and for plain tensors."""
    if not all(isinstance(value, TensorLike) and value.layout is values[0].layout for value in values):
        raise ShapeError("expected values of one forward, got values with different masks or without any")


def channel_norm(
    func: Callable[..., Tensor], value: TensorLike, normalized_shape: Sequence[int], *args: Any, **kwargs: Any
) -> TensorLike:
    """Normalise the channels of each voxel, by a layer or RMS norm; channels must be last.

    Raises:
        ShapeError: for a norm over more than the channels, which would include hidden voxels.
    """
    channels = value.stored.shape[1]
    if not value.last or tuple(normalized_shape) != (channels,):
        raise ShapeError(
            f"'{func.__name__}' over {tuple(normalized_shape)} of {value.noun}: expected channels last and "
            f"the norm over the {channels} channels alone; permute them, {ADVICE}"
        )
    return value.like(func(value.stored.movedim(1, -1), normalized_shape, *args, **kwargs).movedim(-1, 1))


def mean(
    func: Callable[..., Tensor], value: TensorLike, dim: int | Sequence[int] = (), keepdim: bool = False
) -> Tensor:
    """Return each sample's mean over its visible voxels as a plain tensor."""
    _require_space(func, value, dim)
    return _placed(value.over_space("mean"), value, keepdim=keepdim)


def spatial_norm(
    func: Callable[..., Tensor],
    value: TensorLike,
    p: int | float | str | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **others: Any,
) -> Tensor:
    """Return each sample's L2 norm over its visible voxels as a plain tensor, as in GRN of ConvNeXt V2."""
    _require_space(func, value, dim)
    if p not in (2, None, "fro") or any(other is not None for other in others.values()):
        raise value.unlike(f"'norm' of order {p}", "only 2 over space")
    return _placed(value.over_space("norm"), value, keepdim=keepdim)


def adaptive_pool(
    func: Callable[..., Tensor], value: TensorLike, output_size: int | Sequence[int], *_: Any, **__: Any
) -> Tensor:
    """Return the mean or the maximum over visible voxels as a plain tensor, for pooling to one voxel."""
    value.require_channels_first(func.__name__)
    sizes = (output_size,) if isinstance(output_size, int) else tuple(output_size)
    if any(size != 1 for size in sizes):
        raise value.unlike(f"'{func.__name__}' to {sizes}", "only to 1")
    return _placed(value.over_space("mean" if "avg" in func.__name__ else "max"), value, keepdim=True)


def _require_space(func: Callable[..., Any], value: TensorLike, dim: int | Sequence[int] | None) -> None:
    axes = sorted(axis % value.dim() for axis in ((dim,) if isinstance(dim, int) else dim or ()))
    if axes != [axis for axis in range(1, value.dim()) if axis != value.channels_axis]:
        raise value.unlike(f"'{func.__name__}' over axes {tuple(axes)}", "only over all spatial axes")


def _placed(values: Tensor, value: TensorLike, *, keepdim: bool) -> Tensor:
    """Return (batch, channels) with axes of size 1 in place of the spatial ones on request."""
    if not keepdim:
        return values
    ones = [1] * (value.dim() - 2)
    return values.reshape(len(values), *ones, -1) if value.last else values.reshape(*values.shape, *ones)


ELEMENTWISE = (
    *(F.relu, torch.relu, torch.relu_, F.leaky_relu, F.relu6, F.hardtanh, F.silu, F.gelu, F.elu, F.mish),
    *(F.hardswish, F.hardsigmoid, F.softplus, F.selu, F.celu, F.softsign, F.tanhshrink, F.logsigmoid),
    *(F.dropout, torch.sigmoid, torch.tanh, torch.exp, torch.sqrt, torch.rsqrt, torch.square, torch.abs),
    *(Tensor.relu, Tensor.relu_, Tensor.sigmoid, Tensor.tanh, Tensor.square, Tensor.clamp, torch.clamp),
    *(torch.neg, Tensor.neg, Tensor.exp, Tensor.sqrt, Tensor.rsqrt, Tensor.abs, torch.reciprocal),
)
_ADAPTIVE = (F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
_COMBINING = (
    *(torch.add, torch.mul, torch.sub, torch.div, torch.rsub, torch.true_divide, torch.pow, Tensor.pow),
    *(Tensor.add, Tensor.mul, Tensor.sub, Tensor.div),
)
_COPYING = (Tensor.clone, Tensor.detach, Tensor.float, Tensor.double, Tensor.half, Tensor.bfloat16, Tensor.to)
_NEW = (Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_tensor)

SHARED_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys(_COMBINING, combine),
    **dict.fromkeys((torch.cat, torch.concat), concatenate),
    **dict.fromkeys((torch.chunk, Tensor.chunk, torch.split, Tensor.split), divide),
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), softmax),
    **dict.fromkeys((torch.permute, Tensor.permute), permute),
    **dict.fromkeys((torch.movedim, Tensor.movedim), movedim),
    **dict.fromkeys((F.layer_norm, F.rms_norm), channel_norm),
    **dict.fromkeys((torch.mean, Tensor.mean), mean),
    **dict.fromkeys((torch.norm, Tensor.norm), spatial_norm),
    **dict.fromkeys(_ADAPTIVE, adaptive_pool),
    **dict.fromkeys(_COPYING, cast),
    **dict.fromkeys(_NEW, new_tensor),
}
