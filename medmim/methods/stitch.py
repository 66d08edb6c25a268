"""The reuse image of MaskAnyNet: hidden cells cut out and stitched together, and the exact way back."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medmim.methods.targets import from_cells, to_cells
from medmim.shapes import Hidden, Images, Size

Canvas = Float[Tensor, "batch channels *canvas"]


def stitch(images: Images, hidden: Hidden, cell: Size) -> Canvas:
    """Return the hidden cells side by side, in grid order, on a canvas with the image's proportions.

    The canvas is the smallest that holds the most hidden cells of any sample (MaskAnyNet, arXiv 2511.12480,
    equation 1); what is left of it is zero. A window stays a window, a lattice stays a lattice.

    Args:
        images: (batch, channels, *space).
        hidden: (batch, *grid), True = hidden; samples may hide different counts.
        cell: mask cell in voxels along each axis.
    """
    canvas = canvas_of(tuple(hidden.shape[1:]), int(hidden.flatten(1).sum(dim=1).max()))
    cells, order = to_cells(images, cell), _hidden_first(hidden)[:, : prod(canvas)]
    pieces = cells.gather(1, order.unsqueeze(-1).expand(-1, -1, cells.shape[2]))
    kept = hidden.flatten(1).gather(1, order).unsqueeze(-1)
    space = tuple(count * step for count, step in zip(canvas, cell, strict=True))
    return from_cells(pieces.where(kept, 0), space, cell)


def unstitch(reuse: Canvas, hidden: Hidden, cell: Size) -> Images:
    """Return the pieces of a reuse image where they came from, zero elsewhere; the inverse of `stitch`.

    Args:
        reuse: what `stitch` gave for this mask.
        hidden: (batch, *grid).
        cell: mask cell in voxels along each axis.
    """
    pieces, flat = to_cells(reuse, cell), hidden.flatten(1)
    order = _hidden_first(hidden)[:, : pieces.shape[1]]
    cells = pieces.new_zeros(len(pieces), flat.shape[1], pieces.shape[2])
    cells = cells.scatter(1, order.unsqueeze(-1).expand_as(pieces), pieces)
    space = tuple(count * step for count, step in zip(hidden.shape[1:], cell, strict=True))
    return from_cells(cells.where(flat.unsqueeze(-1), 0), space, cell)


def canvas_of(grid: Size, count: int) -> Size:
    """Return the cells along each axis of the smallest canvas like `grid` that holds `count` cells.

    It has two cells an axis at least, where the grid has: norms of small maps need more than one value.
    """
    sides = [min(2, length) for length in grid]
    while prod(sides) < count:
        free = [axis for axis in range(len(grid)) if sides[axis] < grid[axis]]
        sides[min(free, key=lambda axis: sides[axis] / grid[axis])] += 1
    return tuple(sides)


def _hidden_first(hidden: Hidden) -> Int[Tensor, "batch cells"]:
    """Return the numbers of all cells, the hidden ones first, both in grid order."""
    return torch.argsort(hidden.flatten(1).to(torch.uint8), dim=1, descending=True, stable=True)
