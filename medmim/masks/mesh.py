"""The `mesh` mask: hidden cells spread as evenly as the grid allows (Miyazaki & Okita, arXiv 2505.08819).

The paper names the mask and its property, evenness, and gives no formula. Here the cells are ranked by an
ordered dither (Bayer's matrix, extended to any number of axes) and thresholded at the exact count: a
checkerboard at 0.5, one kept cell in four at 0.75 in 2D, two opposite corners of each block in 3D, and evenly
spread at any ratio between, on any grid. A random phase, random flips and a random order of the axes for each
sample keep the network from learning the lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Int
from torch import Tensor

from medmim.masks.base import Mask
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class MeshMask(Mask):
    """Hide an evenly spread set of cells: the highest ranks of an ordered dither, placed at random."""

    def rank(self, batch: int, grid: Sequence[int], *, generator: torch.Generator) -> Ranks:
        """Rank by the dither: the lowest ranks, which stay visible, form the sparsest even lattice."""
        dims = len(grid)
        levels = max(1, (max(grid) - 1).bit_length())
        side = 2**levels  # one period covers the grid, so ranks are unique and the count is exact
        rank = torch.zeros((batch, *grid), dtype=torch.int64, device="cpu")
        order = _corner_order(dims, checkered=self.ratio <= 0.5)
        coordinates = [_positions(batch, length, side, generator=generator) for length in grid]
        weights = 2 ** _shuffled_axes(batch, dims, generator=generator)
        for level in range(levels):
            corner = torch.zeros((batch, *[1] * dims), dtype=torch.int64, device="cpu")
            for axis, position in enumerate(coordinates):
                bit = ((position >> level) & 1) * weights[:, axis : axis + 1]
                along = [batch] + [position.shape[1] if other == axis else 1 for other in range(dims)]
                corner = corner + bit.reshape(along)
            rank = rank * 2**dims + order[corner]
        return rank


def _positions(
    batch: int, length: int, side: int, *, generator: torch.Generator
) -> Int[Tensor, "batch length"]:
    """Return positions along one axis inside the dither's period, shifted and flipped for each sample."""
    phase = torch.randint(side, (batch, 1), generator=generator, device="cpu")
    direction = 1 - 2 * torch.randint(2, (batch, 1), generator=generator, device="cpu")
    return (phase + direction * torch.arange(length, device="cpu")) % side


def _shuffled_axes(batch: int, dims: int, *, generator: torch.Generator) -> Int[Tensor, "batch dims"]:
    """Return an order of the axes for each sample: a partly filled dither prefers some axes to others."""
    noise = torch.rand((batch, dims), generator=generator, dtype=torch.float64, device="cpu")
    return noise.argsort(dim=1)


def _corner_order(dims: int, *, checkered: bool) -> Int[Tensor, " corners"]:
    """Return the rank of each corner of a 2×…×2 block; bit `axis` says whether the corner lies at 1 there.

    Args:
        dims: number of spatial axes.
        checkered: even corners first, so that half of them make a checkerboard. Otherwise opposite corners in
            pairs: in 3D the even corners alone would leave every second plane without a visible cell at 0.75,
            farther from the hidden ones than random masks are; two opposite corners touch every hidden cell.
            In 2D both orders are the same.
    """
    even_first = sorted(range(2**dims), key=lambda corner: (corner.bit_count() % 2, corner))
    last = 2**dims - 1
    pairs = [(corner, last - corner) for corner in even_first if corner < last - corner]
    corners = even_first if checkered else list(chain.from_iterable(pairs))
    order = torch.empty(2**dims, dtype=torch.int64, device="cpu")
    order[torch.tensor(corners, device="cpu")] = torch.arange(2**dims, device="cpu")
    return order
