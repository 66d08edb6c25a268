"""The `mesh` mask: hidden cells spread as evenly as the grid allows (Miyazaki & Okita, arXiv 2505.08819).

The paper names the mask and its property, evenness, and gives no formula. Here the cells are ranked by an ordered
dither (Bayer's matrix, extended to any number of axes) and thresholded at the exact count: a checkerboard at 0.5,
one kept cell in four at 0.75 in 2D, and evenly spread at any ratio between, on any grid. A random phase and
random flips for each sample keep the network from learning the lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from medmim.masks.base import Mask


@dataclass(frozen=True, kw_only=True)
class MeshMask(Mask):
    """Hide an evenly spread set of cells: the highest ranks of an ordered dither with random phase and flips."""

    def rank(
        self, batch: int, grid: Sequence[int], *, generator: torch.Generator
    ) -> Shaped[Tensor, "batch *grid"]:
        """Rank by the dither: the lowest ranks, which stay visible, form the sparsest even lattice."""
        levels = max(1, (max(grid) - 1).bit_length())
        side = 2**levels  # one period covers the grid, so ranks are unique and the count is exact
        rank = torch.zeros((batch, *grid), dtype=torch.int64)
        order = _corner_order(len(grid))
        coordinates = [_positions(batch, length, side, generator=generator) for length in grid]
        for level in range(levels):
            corner = torch.zeros((batch, *[1] * len(grid)), dtype=torch.int64)
            for axis, position in enumerate(coordinates):
                bit = (position >> level) & 1
                along = [batch] + [position.shape[1] if other == axis else 1 for other in range(len(grid))]
                corner = corner + (bit << axis).reshape(along)
            rank = rank * 2 ** len(grid) + order[corner]
        return rank


def _positions(
    batch: int, length: int, side: int, *, generator: torch.Generator
) -> Int[Tensor, "batch length"]:
    """Return positions along one axis inside the dither's period, shifted and flipped for each sample."""
    phase = torch.randint(side, (batch, 1), generator=generator)
    direction = 1 - 2 * torch.randint(2, (batch, 1), generator=generator)
    return (phase + direction * torch.arange(length)) % side


def _corner_order(dims: int) -> Int[Tensor, " corners"]:
    """Return the rank of each corner of a 2×…×2 block: even corners first, so that half of them checker.

    Corner number: bit `axis` says whether the corner lies at 1 along that axis.
    """
    corners = sorted(range(2**dims), key=lambda corner: (corner.bit_count() % 2, corner))
    order = torch.empty(2**dims, dtype=torch.int64)
    order[torch.tensor(corners)] = torch.arange(2**dims)
    return order
