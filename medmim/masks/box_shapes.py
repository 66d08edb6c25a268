"""Boxes of cells: which cells lie inside, and the ranks of one box that is trimmed to the exact count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks, Size


def inside(
    draw: MaskRequest,
    places: Sequence[Int[Tensor, "#batch _"]],
    corner: Int[Tensor, "batch dims"],
    sides: Int[Tensor, "batch dims"],
) -> Bool[Tensor, "batch *grid"]:
    """Return which cells lie in a box, given coordinates along each axis, its first corner and its sides."""
    within = torch.ones((draw.batch, *[1] * draw.dims), dtype=torch.bool, device="cpu")
    for axis, place in enumerate(places):
        local = place - corner[:, [axis]]
        within = within & draw.along(axis, (local >= 0) & (local < sides[:, [axis]]))
    return within


def one_box(draw: MaskRequest, proportions: Sequence[int]) -> Ranks:
    """Rank one box a sample: it lies anywhere in the grid, and its surplus leaves one face in one run.

    Args:
        draw: what is asked for.
        proportions: the sides that the box should have to each other, as far as the grid allows.
    """
    grown = [_grow(draw.hide, draw.grid, proportions, axes) for axes in permutations(range(draw.dims))]
    chosen = draw.choice(torch.tensor([[*sides, *less] for sides, less in grown], device="cpu"))
    sides, without_face = chosen.tensor_split(2, dim=1)
    places, corner = draw.mirrored_places(), draw.below(draw.sizes() - sides + 1)
    within = inside(draw, places, corner, sides)
    core = inside(draw, places, corner, without_face)
    return within * (1 - draw.order(draw.mirrored_places()) / 2) + core


def _grow(
    hide: int, grid: Size, proportions: Sequence[int], axes: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Grow a box by its relatively shortest side until it holds `hide` cells; `axes` decides between equals.

    Returns:
        The sides, and the sides without the last face, when the box was still too small.
    """
    sides, less, cells = [1] * len(grid), [0] * len(grid), 1
    while cells < hide:
        free = [axis for axis in axes if sides[axis] < grid[axis]]
        axis = min(free, key=lambda axis: sides[axis] / proportions[axis])
        less = list(sides)
        cells = cells // sides[axis] * (sides[axis] + 1)
        sides[axis] += 1
    return sides, less
