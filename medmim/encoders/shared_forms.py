"""Forms of operations that masked and packed values compute alike: of axis order, channels and copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from medmim.encoders.tensor_like import TensorLike
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


def require_space(func: Callable[..., Any], value: TensorLike, dim: int | Sequence[int] | None) -> None:
    """Raise ShapeError unless a reduction is over all spatial axes."""
    axes = sorted(axis % value.dim() for axis in ((dim,) if isinstance(dim, int) else dim or ()))
    if axes != [axis for axis in range(1, value.dim()) if axis != value.channels_axis]:
        raise value.unlike(f"'{func.__name__}' over axes {tuple(axes)}", "only over all spatial axes")


def require_l2(value: TensorLike, p: int | float | str | None, others: Sequence[Any]) -> None:
    """Raise ShapeError unless a norm is of order 2 and has no further arguments."""
    if p not in (2, None, "fro") or any(other is not None for other in others):
        raise value.unlike(f"'norm' of order {p}", "only 2 over space")


def with_space(values: Tensor, value: TensorLike, *, keepdim: bool) -> Tensor:
    """Return (batch, channels) with axes of size 1 in place of the spatial ones on request."""
    if not keepdim:
        return values
    ones = [1] * (value.dim() - 2)
    return values.reshape(len(values), *ones, -1) if value.last else values.reshape(*values.shape, *ones)
