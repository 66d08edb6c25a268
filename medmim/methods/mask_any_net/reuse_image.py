"""The reuse image of MaskAnyNet: hidden cells cut out and stitched together, and the exact way back."""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medmim.methods.targets.pixels import from_cells, to_cells
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
    return _laid_out(images, hidden, cell, _canvas_for(hidden))


def stitch_visible(images: Images, hidden: Hidden, cell: Size) -> Canvas:
    """Return as many visible cells side by side as are hidden, on the canvas that `stitch` has for this mask.

    They are evenly spread over the visible ones in grid order; where fewer are visible than hidden, these are
    all there is, and the rest of the canvas is zero.

    Args:
        images: (batch, channels, *space).
        hidden: (batch, *grid), True = hidden.
        cell: mask cell in voxels along each axis.
    """
    return _laid_out(images, _as_many_visible(hidden), cell, _canvas_for(hidden))


def unstitch(reuse: Canvas, hidden: Hidden, cell: Size) -> Images:
    """Return the pieces of a reuse image where they came from, zero elsewhere; the inverse of `stitch`.

    Args:
        reuse: what `stitch` gave for this mask.
        hidden: (batch, *grid).
        cell: mask cell in voxels along each axis.
    """
    pieces, flat = to_cells(reuse, cell), hidden.flatten(1)
    order = _chosen_first(hidden)[:, : pieces.shape[1]]
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


def _canvas_for(hidden: Hidden) -> Size:
    return canvas_of(tuple(hidden.shape[1:]), int(hidden.flatten(1).sum(dim=1).max()))


def _laid_out(images: Images, chosen: Hidden, cell: Size, canvas: Size) -> Canvas:
    """Return the chosen cells in grid order on a canvas of so many cells an axis; the rest of it is zero."""
    cells, order = to_cells(images, cell), _chosen_first(chosen)[:, : prod(canvas)]
    pieces = cells.gather(1, order.unsqueeze(-1).expand(-1, -1, cells.shape[2]))
    kept = chosen.flatten(1).gather(1, order).unsqueeze(-1)
    space = tuple(count * step for count, step in zip(canvas, cell, strict=True))
    return from_cells(pieces.where(kept, 0), space, cell)


def _as_many_visible(hidden: Hidden) -> Hidden:
    """Choose as many visible cells of each sample as are hidden, evenly spread; all where they are fewer."""
    visible = ~hidden.flatten(1)
    number, wanted = visible.cumsum(dim=1), (~visible).sum(dim=1, keepdim=True)
    there = visible.sum(dim=1, keepdim=True).clamp(min=1)
    # a visible cell is taken where its share of those wanted passes the next whole number
    taken = number * wanted // there > (number - 1) * wanted // there
    return (visible & taken).reshape(hidden.shape)


def _chosen_first(chosen: Hidden) -> Int[Tensor, "batch cells"]:
    """Return the numbers of all cells, the chosen ones first, both in grid order."""
    return torch.argsort(chosen.flatten(1).to(torch.uint8), dim=1, descending=True, stable=True)
