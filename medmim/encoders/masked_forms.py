"""Masked forms of linear layers and of padding.

A masked value is a `Masked` of `encoders/masked.py`: a dense tensor with channels first, hidden voxels zero,
its mask, and whether the network has moved the channels behind the spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medmim.errors import ShapeError, size_text
from medmim.shapes import Size

_AFTER_PAD = {"pad", *(f"{name}{dims}d" for name in ("conv", "max_pool", "avg_pool") for dims in (2, 3))}


def linear(func: Callable[..., Tensor], value: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Apply a linear layer to the channels of each voxel; channels must be last."""
    if not value.last:
        raise ShapeError("'linear' of masked values: permute channels to the end first")
    return value.like(func(value.dense.movedim(1, -1), weight, bias).movedim(-1, 1))


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
