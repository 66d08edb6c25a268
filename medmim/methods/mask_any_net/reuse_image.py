"""The reuse image of MaskAnyNet: hidden cells stitched together on a smaller canvas, and its exact inverse.

Rows, columns and slices of the grid without hidden cells are removed, so that a window stays a window and a
lattice of windows a lattice, in 2D and 3D. Masks without such a geometry, such as random cells, are written
one cell after the other in grid order.
"""

from __future__ import annotations

from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medmim.methods.targets.pixels import from_cells, to_cells
from medmim.shapes import Hidden, Images, Size

Canvas = Float[Tensor, "batch channels *canvas"]
Slots = Int[Tensor, "batch cells"]

_LEAST_FILLED = 0.5  # share of the canvas; below it, cells are written one after the other


def stitch(images: Images, hidden: Hidden, cell: Size) -> Canvas:
    """Return the hidden cells side by side on a common canvas of the batch; unused cells are zero."""
    slots, canvas = _slots(hidden)
    return _write(images, hidden, slots, cell=cell, canvas=canvas)


def stitch_visible(images: Images, hidden: Hidden, cell: Size) -> Canvas:
    """Return as many visible cells as are hidden, on the canvas that `stitch` uses for this mask.

    They are evenly spread over the visible cells in grid order; where fewer are visible than hidden, all are
    used, and the rest of the canvas is zero.
    """
    chosen = _as_many_visible(hidden)
    return _write(images, chosen, chosen.flatten(1).cumsum(dim=1) - 1, cell=cell, canvas=_slots(hidden)[1])


def unstitch(reuse: Canvas, hidden: Hidden, cell: Size) -> Images:
    """Return the hidden cells of a reuse image at their original positions, zero elsewhere."""
    pieces = to_cells(reuse, cell)
    slots, _ = _slots(hidden)
    sample, position = hidden.flatten(1).nonzero(as_tuple=True)
    cells = pieces.new_zeros(len(pieces), slots.shape[1], pieces.shape[2])
    cells[sample, position] = pieces[sample, slots[sample, position]]
    space = tuple(count * step for count, step in zip(hidden.shape[1:], cell, strict=True))
    return from_cells(cells, space, cell)


def canvas_of(grid: Size, count: int) -> Size:
    """Return the smallest canvas with the proportions of `grid` for `count` cells, in cells along each axis.

    It has at least two cells along each axis of the grid that has: norms of small maps need several values.
    """
    sides = [min(2, length) for length in grid]
    while prod(sides) < count:
        free = [axis for axis in range(len(grid)) if sides[axis] < grid[axis]]
        sides[min(free, key=lambda axis: sides[axis] / grid[axis])] += 1
    return tuple(sides)


def _slots(hidden: Hidden) -> tuple[Slots, Size]:
    """Return the position of each hidden cell on the canvas, and the size of the canvas in cells."""
    grid, dims = tuple(hidden.shape[1:]), hidden.dim() - 1
    flat = hidden.flatten(1)
    count = flat.sum(dim=1)
    others = [[other + 1 for other in range(dims) if other != axis] for axis in range(dims)]
    occupied = [hidden.amax(dim=rest) for rest in others]
    sides = torch.stack([along.sum(dim=1) for along in occupied], dim=1)
    volume = sides.prod(dim=1)
    regular = (count >= _LEAST_FILLED * volume) & (volume < prod(grid)) & (count > 0)
    most = int(count.masked_fill(regular, 0).max())
    tallest = sides.masked_fill(~regular.unsqueeze(1), 0).amax(dim=0).tolist()
    canvas = tuple(max(both) for both in zip(canvas_of(grid, most), tallest, strict=True))
    place = torch.zeros_like(hidden, dtype=torch.int64)
    for axis, (along, side) in enumerate(zip(occupied, canvas, strict=True)):
        rank = (along.cumsum(dim=1) - 1).clamp(min=0)
        place = place * side + rank.reshape(len(rank), *[-1 if other == axis else 1 for other in range(dims)])
    return torch.where(regular.unsqueeze(1), place.flatten(1), flat.cumsum(dim=1) - 1), canvas


def _write(images: Images, chosen: Hidden, slots: Slots, *, cell: Size, canvas: Size) -> Canvas:
    """Write the chosen cells to their slots of an empty canvas."""
    cells = to_cells(images, cell)
    sample, position = chosen.flatten(1).nonzero(as_tuple=True)
    pieces = cells.new_zeros(len(cells), prod(canvas), cells.shape[2])
    pieces[sample, slots[sample, position]] = cells[sample, position]
    return from_cells(pieces, tuple(count * step for count, step in zip(canvas, cell, strict=True)), cell)


def _as_many_visible(hidden: Hidden) -> Hidden:
    """Choose as many visible cells of each sample as are hidden, evenly spread; all where there are fewer."""
    visible = ~hidden.flatten(1)
    number, wanted = visible.cumsum(dim=1), (~visible).sum(dim=1, keepdim=True)
    available = visible.sum(dim=1, keepdim=True).clamp(min=1)
    # choose a visible cell where its share of the wanted number passes the next integer
    taken = number * wanted // available > (number - 1) * wanted // available
    return (visible & taken).reshape(hidden.shape)
