"""Masked forms of operations on channels, of axis order, of means over visible voxels, and of padding.

A masked value is a `Masked` of `encoders/masked.py`: a dense tensor with channels first, hidden voxels zero,
its mask, and whether the network has moved the channels behind the spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.errors import ShapeError, size_text
from medmim.shapes import Size

_AFTER_PAD = {"pad", *(f"{name}{dims}d" for name in ("conv", "max_pool", "avg_pool") for dims in (2, 3))}


def permute(func: Callable[..., Any], value: Any, *order: Any, **kwargs: Any) -> Any:
    """Move channels behind the spatial axes or back; the memory does not change."""
    axes = kwargs.get("dims", order[0] if order and not isinstance(order[0], int) else order)
    count = value.dim()
    wanted = tuple(axis % count for axis in axes)
    if wanted == tuple(range(count)):
        return value
    if wanted != ((0, count - 1, *range(1, count - 1)) if value.last else (0, *range(2, count), 1)):
        raise ShapeError(f"'permute' to {wanted} has no masked form, only channels last and back")
    return value.reordered(last=not value.last)


def movedim(func: Callable[..., Any], value: Any, source: int, destination: int) -> Any:
    """Move channels behind the spatial axes or back."""
    axes = list(range(value.dim()))
    axes.insert(destination % len(axes), axes.pop(source % len(axes)))
    return permute(func, value, axes)


def channels_last(func: Callable[..., Tensor], value: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a linear layer, or a norm over the channels of each voxel; channels must be last."""
    if not value.last:
        raise ShapeError(f"'{func.__name__}' of masked values: permute channels to the end first")
    shape = kwargs.get("normalized_shape", args[0] if args else ())
    if func is not F.linear and tuple(shape) != (value.dense.shape[1],):
        raise ShapeError(f"'{func.__name__}' over {tuple(shape)} has no masked form, only over the channels")
    return value.like(func(value.dense.movedim(1, -1), *args, **kwargs).movedim(-1, 1))


def softmax(
    func: Callable[..., Tensor], value: Any, dim: int | None = None, *args: Any, **kwargs: Any
) -> Any:
    """Apply softmax over the channels of each voxel."""
    if dim is None or dim % value.dim() != value.channels_axis:
        raise ShapeError(f"'softmax' over axis {dim} has no masked form, only over channels")
    return value.like(func(value.dense, 1, *args, **kwargs))


def divide(func: Callable[..., Sequence[Tensor]], value: Any, size: Any, dim: int = 0) -> tuple[Any, ...]:
    """Chunk or split along channels."""
    if dim % value.dim() != value.channels_axis:
        raise ShapeError(
            f"masked values are divided along channels (dim={value.channels_axis}), got dim={dim}"
        )
    return tuple(value.like(part) for part in func(value.dense, size, dim=1))


def select_channels(value: Any, key: Any) -> Any:
    """Index along channels, as in `x[:, :8]` or, with channels last, `x[..., :8]`."""
    keys = key if isinstance(key, tuple) else (key,)
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        missing = (slice(None),) * (value.dim() + 1 - len(keys))
        keys = (*keys[:place], *missing, *keys[place + 1 :])
    keys = (*keys, *(slice(None),) * (value.dim() - len(keys)))
    others = [each for axis, each in enumerate(keys) if axis != value.channels_axis]
    if any(each != slice(None) for each in others) or not isinstance(keys[value.channels_axis], slice | list):
        raise ShapeError(f"'indexing' with {key} has no masked form, only slices of channels")
    return value.like(value.dense[:, keys[value.channels_axis]])


def cast(func: Callable[..., Tensor], value: Any, *args: Any, **kwargs: Any) -> Any:
    """Change dtype or device, copy, or detach."""
    return value.like(func(value.dense, *args, **kwargs))


def new_tensor(func: Callable[..., Tensor], value: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Create a plain tensor of the same dtype and device (`new_zeros` and similar)."""
    return func(value.dense, *args, **kwargs)


def mean(
    func: Callable[..., Tensor], value: Any, dim: int | Sequence[int] = (), keepdim: bool = False
) -> Tensor:
    """Return each sample's mean over its visible voxels as a plain tensor."""
    _require_space(func, value, dim)
    dense, visible = value.dense.flatten(2), value.visible.flatten(2)
    return _keep(dense.sum(dim=2) / visible.sum(dim=2).to(dense.dtype), value, keepdim=keepdim)


def adaptive_pool(func: Callable[..., Tensor], value: Any, output_size: Any, *_: Any, **__: Any) -> Tensor:
    """Return the mean or the maximum over visible voxels, for pooling to one voxel."""
    value.require_channels_first(func.__name__)
    sizes = (output_size,) if isinstance(output_size, int) else tuple(output_size)
    if any(size != 1 for size in sizes):
        raise ShapeError(f"'{func.__name__}' to {sizes} has no masked form, only to 1")
    if "avg" in func.__name__:
        return mean(func, value, range(2, value.dim()), keepdim=True)
    shown = value.dense.masked_fill(value.visible == 0, -torch.inf)
    return _keep(shown.flatten(2).amax(dim=2), value, keepdim=True)


def spatial_norm(
    func: Callable[..., Tensor],
    value: Any,
    p: int | float | str | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **others: Any,
) -> Tensor:
    """Return each sample's L2 norm over its visible voxels as a plain tensor, as in GRN of ConvNeXt V2."""
    _require_space(func, value, dim or ())
    if p not in (2, None, "fro") or any(other is not None for other in others.values()):
        raise ShapeError(f"'norm' of order {p} has no masked form, only 2 over space")
    return _keep(torch.linalg.vector_norm(value.dense.flatten(2), dim=2), value, keepdim=keepdim)


def pad(func: Callable[..., Tensor], value: Any, /, *args: Any, **kwargs: Any) -> PaddedMap:
    """Pad the image, in any mode; only a convolution or pooling may follow."""
    value.require_channels_first("pad")
    return PaddedMap(func(value.dense, *args, **kwargs), value)


class PaddedMap:
    """A masked map with a margin around the image, which the next convolution or pooling removes."""

    def __init__(self, dense: Tensor, value: Any) -> None:
        self.dense = dense
        self.value = value

    @property
    def shape(self) -> torch.Size:
        """Shape with the margin."""
        return self.dense.shape

    def __getattr__(self, name: str) -> Any:
        """Reject any use but that by a convolution or pooling, by name."""
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        raise _after_pad(name)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a convolution, pooling or a further padding.

        Raises:
            ShapeError: for another operation, or if the margin is not removed.
        """
        padded, *rest = args
        name = getattr(func, "__name__", str(func))
        if not isinstance(padded, cls) or name not in _AFTER_PAD:
            raise _after_pad(name)
        dense = func(padded.dense, *rest, **(kwargs or {}))
        if name == "pad":
            return cls(dense, padded.value)
        space: Size = tuple(padded.value.dense.shape[2:])
        if any(whole % length for whole, length in zip(space, dense.shape[2:], strict=True)):
            raise ShapeError(
                f"'{name}' after 'pad' maps {size_text(space)} voxels to "
                f"{size_text(dense.shape[2:])}: expected that number divided by the stride"
            )
        return padded.value.like(dense)


def _after_pad(name: str) -> ShapeError:
    return ShapeError(f"'{name}' after 'pad' has no masked form, only a convolution or pooling")


def _require_space(func: Callable[..., Any], value: Any, dim: int | Sequence[int]) -> None:
    axes = sorted(axis % value.dim() for axis in ((dim,) if isinstance(dim, int) else dim))
    if axes != [axis for axis in range(1, value.dim()) if axis != value.channels_axis]:
        raise ShapeError(f"'{func.__name__}' over axes {axes} has no masked form, only over all spatial axes")


def _keep(values: Tensor, value: Any, *, keepdim: bool) -> Tensor:
    """Return (batch, channels) with axes of size 1 in place of the spatial ones on request."""
    if not keepdim:
        return values
    ones = [1] * (value.dim() - 2)
    return values.reshape(len(values), *ones, -1) if value.last else values.reshape(*values.shape, *ones)
