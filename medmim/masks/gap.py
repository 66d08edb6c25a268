"""The `gap` mask: visible cells that keep apart, after Latent MIM's non-contiguous grid (arXiv 2407.15837).

There each patch is cut from a larger place at a random offset, so that no two patches touch and none can be
guessed from its neighbour. On a grid of cells the same is a lattice of places with one visible cell in some
of them, at a random offset that leaves a hidden cell between any two. This needs three hidden cells in four
in 2D, seven in eight in 3D; with fewer, visible cells touch at corners first and at faces last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Bool
from torch import Tensor

from medmim.masks.base import Mask
from medmim.masks.mesh import corner_order
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks, Size


@dataclass(frozen=True, kw_only=True)
class GapMask(Mask):
    """Keep cells visible that do not touch each other, drawn at random."""

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank cells that would touch a visible one first, in random order."""
        shown = draw.cells - draw.hide
        if math.prod(length // 2 or 1 for length in draw.grid) >= shown:
            return draw.noise() + ~_apart(draw)
        shifts = draw.shuffled_axes()
        corner = torch.zeros((draw.batch, *draw.grid), dtype=torch.int64, device="cpu")
        for axis, place in enumerate(draw.mirrored_places()):
            corner += draw.along(axis, place % 2 << shifts[:, [axis]])
        return draw.noise() + corner_order(draw.dims, checkered=True)[corner]


def _apart(draw: MaskRequest) -> Bool[Tensor, "batch *grid"]:
    """Return one cell of every place of a lattice, as wide as the number of visible cells allows."""
    shown = draw.cells - draw.hide
    widths = [_widen(shown, draw.grid, axes) for axes in permutations(range(draw.dims))]
    width = draw.choice(torch.tensor(widths, device="cpu"))
    # whole places only are moved over the grid, so that there are always enough of them
    start = draw.below(draw.sizes() % width + 1)
    most = max(draw.grid) // 2 + 2  # places along the longest axis, with an incomplete one at each end
    number = torch.zeros((draw.batch, *draw.grid), dtype=torch.int64, device="cpu")
    moved = [place - start[:, [axis]] for axis, place in enumerate(draw.mirrored_places())]
    for axis, place in enumerate(moved):
        which = torch.div(place, width[:, [axis]], rounding_mode="floor") + 1
        number = number * most + draw.along(axis, which)
    chosen = torch.ones_like(number, dtype=torch.bool)
    for axis, place in enumerate(moved):
        # never at the last position, so that a hidden cell follows
        room = (width[:, [axis]] - 1).clamp(min=1)
        offset = draw.below(room.expand(-1, most**draw.dims)).gather(1, number.flatten(1))
        chosen &= draw.along(axis, place % width[:, [axis]]) == offset.reshape(number.shape)
    return chosen


def _widen(shown: int, grid: Size, axes: tuple[int, ...]) -> list[int]:
    """Widen places, which are 2 cells wide at least, axis after axis as long as `shown` of them fit."""
    width = [min(2, length) for length in grid]
    grown = True
    while grown:
        grown = False
        for axis in axes:
            wider = [w + (other == axis) for other, w in enumerate(width)]
            fitting = math.prod(length // w for length, w in zip(grid, wider, strict=True))
            if fitting >= shown:
                width, grown = wider, True
    return width
