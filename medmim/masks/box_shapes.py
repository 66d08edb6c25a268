"""Boxes of cells: which cells are inside, and the ranks of one box trimmed to the exact count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks, Size


def inside(
    request: MaskRequest,
    coordinates: Sequence[Int[Tensor, "#batch _"]],
    corner: Int[Tensor, "batch dims"],
    sides: Int[Tensor, "batch dims"],
) -> Bool[Tensor, "batch *grid"]:
    """Return which cells are inside a box, given coordinates along each axis, its first corner and sides."""
    within = torch.ones((request.batch, *[1] * request.dims), dtype=torch.bool, device="cpu")
    for axis, coordinate in enumerate(coordinates):
        local = coordinate - corner[:, [axis]]
        within = within & request.along_axis(axis, (local >= 0) & (local < sides[:, [axis]]))
    return within


def one_box(request: MaskRequest, proportions: Sequence[int]) -> Ranks:
    """Rank one box per sample at a random position; surplus cells are removed from one face, row by row.

    Args:
        proportions: target ratio of the box's sides, as far as the grid allows.
    """
    grown = [
        _grow(request.num_hidden, request.grid, proportions, axes)
        for axes in permutations(range(request.dims))
    ]
    chosen = request.choice(torch.tensor([[*sides, *less] for sides, less in grown], device="cpu"))
    sides, without_face = chosen.tensor_split(2, dim=1)
    coordinates = request.mirrored_coordinates()
    corner = request.integers_below(request.sizes() - sides + 1)
    within = inside(request, coordinates, corner, sides)
    core = inside(request, coordinates, corner, without_face)
    return within * (1 - request.scan_order(request.mirrored_coordinates()) / 2) + core


def _grow(
    num_hidden: int, grid: Size, proportions: Sequence[int], axes: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Grow a box along its relatively shortest side until it holds `num_hidden` cells; `axes` breaks ties.

    Returns:
        The sides, and the sides before the last step, when the box was still too small.
    """
    sides, previous, cells = [1] * len(grid), [0] * len(grid), 1
    while cells < num_hidden:
        free = [axis for axis in axes if sides[axis] < grid[axis]]
        axis = min(free, key=lambda axis: sides[axis] / proportions[axis])
        previous = list(sides)
        cells = cells // sides[axis] * (sides[axis] + 1)
        sides[axis] += 1
    return sides, previous
