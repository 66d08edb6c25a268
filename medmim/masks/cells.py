"""From mask cells to voxels."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from medmim.shapes import Hidden, grid_of


def hidden_voxels(hidden: Hidden, space: Sequence[int]) -> Bool[Tensor, "batch 1 *space"]:
    """Return which voxels are hidden: each cell of the grid covers space / grid voxels along each axis.

    Args:
        hidden: (batch, *grid), True = hidden.
        space: voxels along each axis; a multiple of the grid.

    Raises:
        ShapeError: if the grid does not divide the image.
    """
    grid = tuple(hidden.shape[1:])
    cell = tuple(max(1, length // cells) for length, cells in zip(space, grid, strict=True))
    grid_of(space, cell)
    voxels = hidden
    for axis, step in enumerate(cell, start=1):
        voxels = voxels.repeat_interleave(step, dim=axis)
    return voxels.unsqueeze(1)
