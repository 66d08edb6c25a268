"""Masked forms of operations on channels, of means over visible voxels, and of padding.

A masked value is a `Masked` of `encoders/masked.py`: a dense tensor with channels first, hidden voxels zero,
its mask, and whether the network has moved the channels behind the spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.encoders.shared_forms import require_l2, require_space, with_space
from medmim.errors import ShapeError, size_text
from medmim.shapes import Size

_AFTER_PAD = {"pad", *(f"{name}{dims}d" for name in ("conv", "max_pool", "avg_pool") for dims in (2, 3))}


def channels_last(func: Callable[..., Tensor], value: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a linear layer, or a norm over the channels of each voxel; channels must be last."""
    if not value.last:
        raise ShapeError(f"'{func.__name__}' of masked values: permute channels to the end first")
    shape = kwargs.get("normalized_shape", args[0] if args else ())
    if func is not F.linear and tuple(shape) != (value.dense.shape[1],):
        raise ShapeError(f"'{func.__name__}' over {tuple(shape)} has no masked form, only over the channels")
    return value.like(func(value.dense.movedim(1, -1), *args, **kwargs).movedim(-1, 1))


def mean(
    func: Callable[..., Tensor], value: Any, dim: int | Sequence[int] = (), keepdim: bool = False
) -> Tensor:
    """Return each sample's mean over its visible voxels as a plain tensor."""
    require_space(func, value, dim)
    dense, visible = value.dense.flatten(2), value.visible.flatten(2)
    return with_space(dense.sum(dim=2) / visible.sum(dim=2).to(dense.dtype), value, keepdim=keepdim)


def adaptive_pool(func: Callable[..., Tensor], value: Any, output_size: Any, *_: Any, **__: Any) -> Tensor:
    """Return the mean or the maximum over visible voxels, for pooling to one voxel."""
    value.require_channels_first(func.__name__)
    sizes = (output_size,) if isinstance(output_size, int) else tuple(output_size)
    if any(size != 1 for size in sizes):
        raise ShapeError(f"'{func.__name__}' to {sizes} has no masked form, only to 1")
    if "avg" in func.__name__:
        return mean(func, value, range(2, value.dim()), keepdim=True)
    shown = value.dense.masked_fill(value.visible == 0, -torch.inf)
    return with_space(shown.flatten(2).amax(dim=2), value, keepdim=True)


def spatial_norm(
    func: Callable[..., Tensor],
    value: Any,
    p: int | float | str | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **others: Any,
) -> Tensor:
    """Return each sample's L2 norm over its visible voxels as a plain tensor, as in GRN of ConvNeXt V2."""
    require_space(func, value, dim)
    require_l2(value, p, list(others.values()))
    return with_space(torch.linalg.vector_norm(value.dense.flatten(2), dim=2), value, keepdim=keepdim)


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
