"""From mask cells to voxels."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from medmim.errors import ShapeError
from medmim.shapes import Hidden


def hidden_voxels(hidden: Hidden, space: Sequence[int]) -> Bool[Tensor, "batch 1 *space"]:
    """Return which voxels are hidden: each cell of the grid covers space / grid voxels along each axis.

    Args:
        hidden: (batch, *grid), True = hidden.
        space: voxels along each axis; a multiple of the grid.

    Raises:
        ShapeError: if the grid does not divide the image.
    """
    grid = tuple(hidden.shape[1:])
    if len(grid) != len(space) or any(length % cells for length, cells in zip(space, grid, strict=True)):
        raise ShapeError(
            f"image of {'×'.join(map(str, space))} voxels does not divide into a grid of "
            f"{'×'.join(map(str, grid))} cells: expected a multiple of the grid along each axis"
        )
    voxels = hidden
    for axis, (length, cells) in enumerate(zip(space, grid, strict=True), start=1):
        voxels = voxels.repeat_interleave(length // cells, dim=axis)
    return voxels.unsqueeze(1)
