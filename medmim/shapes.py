"""Axis names for type annotations, and size checks that several packages share.

batch     samples            channels  image or feature channels
*space    voxels (y x) or (z y x as stored: first, second, third array axis), 2 or 3 axes
*grid     mask cells along the same axes; cell = space / grid
hidden    boolean, True = hidden from the encoder
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from medmim.errors import ShapeError, WrongTypeError, size_text

Images = Float[Tensor, "batch channels *space"]
Features = Float[Tensor, "batch _ ..."]  # width and size differ between feature maps, so they are not checked
Labels = Int[Tensor, "batch 1 *space"]
Hidden = Bool[Tensor, "batch *grid"]
Ranks = Shaped[Tensor, "batch *grid"]
Scalar = Float[Tensor, ""]

Size = tuple[int, ...]


def as_size(value: int | Sequence[int], dims: int, *, what: str) -> Size:
    """Return `value` as `dims` positive integers; a single number applies to all axes.

    Args:
        value: one size, or one per axis, in voxels.
        dims: number of spatial axes, 2 or 3.
        what: name of the setting, for the error message.

    Raises:
        ShapeError: if the number of sizes is wrong or a size is below one.
    """
    size = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(size) == 1:
        size = size * dims
    if len(size) != dims or min(size) < 1:
        raise ShapeError(f"{what}: expected one or {dims} positive sizes, got {size_text(size)}")
    return size


def grid_of(space: Sequence[int], cell: Sequence[int]) -> Size:
    """Return the number of mask cells along each axis.

    Raises:
        ShapeError: if a cell does not divide the image; the message names the nearest valid sizes.
    """
    if len(space) != len(cell):
        raise ShapeError(
            f"expected equal axis counts, got an image of {size_text(space)} voxels and "
            f"cells of {size_text(cell)}"
        )
    if any(length % step or length < step for length, step in zip(space, cell, strict=True)):
        lower = tuple(max(step, length // step * step) for length, step in zip(space, cell, strict=True))
        upper = tuple(-(-length // step) * step for length, step in zip(space, cell, strict=True))
        fitting = " or ".join(dict.fromkeys(",".join(map(str, size)) for size in (upper, lower)))
        raise ShapeError(
            f"image of {size_text(space)} voxels does not divide into mask cells of {size_text(cell)}: "
            f"use --size {fitting}, or another --cell"
        )
    return tuple(length // step for length, step in zip(space, cell, strict=True))


def round_up(space: Sequence[int], multiple: Sequence[int]) -> Size:
    """Return the smallest size that contains `space` and is a multiple of `multiple` along each axis."""
    return tuple(-(-length // step) * step for length, step in zip(space, multiple, strict=True))


def require_whole_cells(cell: Size, step: Size, *, of: str) -> None:
    """Check that mask cells are a multiple of the encoder's step."""
    if any(size % stride for size, stride in zip(cell, step, strict=True)):
        nearest = tuple(-(-size // stride) * stride for size, stride in zip(cell, step, strict=True))
        raise ShapeError(
            f"mask cell of {size_text(cell)} voxels: expected a multiple of {of} "
            f"{size_text(step)}; use --cell {','.join(map(str, nearest))}"
        )


def require_tensors(images: object, hidden: object) -> None:
    """Check images and masks, which in a user's own loop may be arrays or masks of numbers.

    Raises:
        WrongTypeError: unless images are a floating-point tensor and the mask is a Boolean one.
    """
    for name, value, kind in (("images", images, "floating-point"), ("hidden", hidden, "Boolean")):
        if not isinstance(value, Tensor):
            raise WrongTypeError(f"{name}: expected a {kind} tensor, got {type(value).__name__}")
        if not (value.dtype == torch.bool if name == "hidden" else value.is_floating_point()):
            raise WrongTypeError(f"{name}: expected a {kind} tensor, got one of {value.dtype}")
