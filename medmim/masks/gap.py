"""The `gap` mask: visible cells that do not touch, after Latent MIM's non-contiguous grid (arXiv 2407.15837).

Latent MIM crops each patch from a larger cell at a random offset, so that no two patches touch and none can
be predicted from its neighbour's edge. On a grid of cells the equivalent is a lattice of blocks, some of
which contain one visible cell at a random offset that leaves a hidden cell between any two. This requires a
ratio of at least 0.75 in 2D and 0.875 in 3D; at lower ratios visible cells touch at corners first and at
faces last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks, Size


@dataclass(frozen=True, kw_only=True)
class GapMask(Mask):
    """Keep random cells visible that do not touch each other."""

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank cells that would touch a visible one first, in random order."""
        num_visible = request.cells - request.num_hidden
        if math.prod(length // 2 or 1 for length in request.grid) >= num_visible:
            return request.noise() + ~_separate_cells(request)
        shifts = request.shuffled_axes()
        corner = torch.zeros((request.batch, *request.grid), dtype=torch.int64, device="cpu")
        for axis, coordinate in enumerate(request.mirrored_coordinates()):
            corner += request.along_axis(axis, coordinate % 2 << shifts[:, [axis]])
        return request.noise() + _corner_order(request.dims)[corner]


def _separate_cells(request: MaskRequest) -> Bool[Tensor, "batch *grid"]:
    """Return one cell of every block of a lattice, with the largest blocks that still give enough cells."""
    num_visible = request.cells - request.num_hidden
    options = [_block_size(num_visible, request.grid, axes) for axes in permutations(range(request.dims))]
    size = request.choice(torch.tensor(options, device="cpu"))
    # shift the lattice by whole remainders only, so that enough complete blocks remain
    start = request.integers_below(request.sizes() % size + 1)
    most = max(request.grid) // 2 + 2  # blocks along the longest axis, with an incomplete one at each end
    number = torch.zeros((request.batch, *request.grid), dtype=torch.int64, device="cpu")
    shifted = [at - start[:, [axis]] for axis, at in enumerate(request.mirrored_coordinates())]
    for axis, coordinate in enumerate(shifted):
        block = torch.div(coordinate, size[:, [axis]], rounding_mode="floor") + 1
        number = number * most + request.along_axis(axis, block)
    chosen = torch.ones_like(number, dtype=torch.bool)
    for axis, coordinate in enumerate(shifted):
        # never the last position of a block, so that a hidden cell follows
        room = (size[:, [axis]] - 1).clamp(min=1)
        offset = request.integers_below(room.expand(-1, most**request.dims)).gather(1, number.flatten(1))
        chosen &= request.along_axis(axis, coordinate % size[:, [axis]]) == offset.reshape(number.shape)
    return chosen


def _block_size(num_visible: int, grid: Size, axes: tuple[int, ...]) -> list[int]:
    """Return block sides of at least 2 cells, grown in the order of `axes` while enough blocks fit."""
    size = [min(2, length) for length in grid]
    grown = True
    while grown:
        grown = False
        for axis in axes:
            larger = [side + (other == axis) for other, side in enumerate(size)]
            if math.prod(n // side for n, side in zip(grid, larger, strict=True)) >= num_visible:
                size, grown = larger, True
    return size


def _corner_order(dims: int) -> Int[Tensor, " corners"]:
    """Return the rank of each corner of a 2×…×2 block, even corners first: half of them are a checkerboard.

    Bit `axis` of a corner's index is its coordinate along that axis.
    """
    corners = sorted(range(2**dims), key=lambda corner: (corner.bit_count() % 2, corner))
    return torch.tensor(corners, device="cpu").argsort()
