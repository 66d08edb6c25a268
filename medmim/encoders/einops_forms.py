"""Masked and packed values in einops: axis order and means over space; the rest is rejected by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einops._backends import AbstractBackend  # there is no public interface for custom types

from medmim.encoders.tensor_like import TensorLike


class TensorLikeBackend(AbstractBackend):
    """The operations of einops for `TensorLike`; einops finds subclasses of its base class by itself."""

    framework_name = __name__  # einops checks whether this module is loaded

    def is_appropriate_type(self, tensor: Any) -> bool:
        """Return whether this class serves a value."""
        return isinstance(tensor, TensorLike)

    def shape(self, x: TensorLike) -> tuple[int, ...]:
        """Return the shape as plain integers."""
        return tuple(x.shape)

    def transpose(self, x: TensorLike, axes: Sequence[int]) -> Any:
        """Move channels behind the spatial axes or back."""
        return x.permute(*axes)

    def reduce(self, x: TensorLike, operation: str, axes: Sequence[int]) -> Any:
        """Return the mean over visible voxels; other reductions have no form."""
        return getattr(x, operation)(tuple(axes))

    def is_float_type(self, x: TensorLike) -> bool:
        """Return that values are floating-point numbers."""
        return True

    def add_axis(self, x: TensorLike, new_position: int) -> Any:
        """Reject repetition by name."""
        raise x.no_form("einops.repeat")

    def einsum(self, pattern: str, *x: Any) -> Any:
        """Reject sums of products by name."""
        raise next(each for each in x if isinstance(each, TensorLike)).no_form("einops.einsum")
