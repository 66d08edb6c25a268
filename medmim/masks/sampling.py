"""Sampling for masks: `MaskRequest`, the random numbers of a rule (CPU generator), and boxes of cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from medmim.shapes import Ranks, Size

Weights = Float[Tensor, "batch *grid"]

_OLD_NAMES = {
    "hide": "num_hidden",
    "below": "integers_below",
    "order": "scan_order",
    "places": "coordinates",
    "mirrored_places": "mirrored_coordinates",
    "along": "along_axis",
    "each": "per_sample",
}


@dataclass(frozen=True, eq=False)
class MaskRequest:
    """One request for masks.

    Attributes:
        num_hidden: cells to hide in every sample.
        generator: CPU generator; the only source of randomness.
        weight: share of tissue in each cell, at least 0; None where the image is unknown.
    """

    batch: int
    grid: Size
    num_hidden: int
    generator: torch.Generator
    weight: Weights | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute by its name before version 0.2, which users' own masks may still use."""
        if name not in _OLD_NAMES:
            raise AttributeError(f"'MaskRequest' has no attribute '{name}'")
        message = f"MaskRequest.{name} is now {_OLD_NAMES[name]}; the old name will be removed"
        warnings.warn(message, FutureWarning, stacklevel=2)
        return getattr(self, _OLD_NAMES[name])

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.grid)

    @property
    def cells(self) -> int:
        """Number of cells of one sample."""
        return math.prod(self.grid)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Draw independent numbers in [0, 1), an array of `shape` for each sample."""
        size = (self.batch, *shape)
        return torch.rand(size, generator=self.generator, dtype=torch.float64, device="cpu")

    def noise(self) -> Float[Tensor, "batch *grid"]:
        """Draw independent noise in [0, 1) for every cell; float64 avoids ties."""
        return self.uniform(*self.grid)

    def integers_below(self, limit: Int[Tensor, "#batch n"]) -> Int[Tensor, "batch n"]:
        """Draw integers from 0 to `limit` - 1 uniformly."""
        return (self.uniform(limit.shape[1]) * limit).long()

    def choice(self, table: Int[Tensor, "rows n"]) -> Int[Tensor, "batch n"]:
        """Draw one row of a table for each sample."""
        return table[(self.uniform() * len(table)).long()]

    def shuffled_axes(self) -> Int[Tensor, "batch dims"]:
        """Draw a permutation of the axes for each sample."""
        return self.uniform(self.dims).argsort(dim=1)

    def flips(self) -> Int[Tensor, "batch dims"]:
        """Draw 1 or -1 for each axis of each sample."""
        return 1 - 2 * (self.uniform(self.dims) < 0.5).long()

    def sizes(self) -> Int[Tensor, "1 dims"]:
        """Return the grid as a tensor."""
        return torch.tensor([self.grid], dtype=torch.int64, device="cpu")

    def scan_order(self, coordinates: Sequence[Int[Tensor, "#batch _"]]) -> Float[Tensor, "#batch *grid"]:
        """Return each cell's position in [0, 1) in row-major order along the given coordinates."""
        number = torch.zeros((1, *[1] * self.dims), dtype=torch.float64, device="cpu")
        for axis, coordinate in enumerate(coordinates):
            number = number * self.grid[axis] + self.along_axis(axis, coordinate)
        return number / self.cells

    def coordinates(self) -> list[Int[Tensor, "1 _"]]:
        """Return the cell coordinates along each axis."""
        return [torch.arange(length, device="cpu").unsqueeze(0) for length in self.grid]

    def mirrored_coordinates(self) -> list[Int[Tensor, "batch _"]]:
        """Return the cell coordinates along each axis, each axis flipped at random for each sample."""
        flips = self.flips().unbind(dim=1)
        return [
            torch.where(flip[:, None] < 0, coordinate.flip(dims=[1]), coordinate)
            for flip, coordinate in zip(flips, self.coordinates(), strict=True)
        ]

    def along_axis(self, axis: int, values: Shaped[Tensor, "#batch _"]) -> Tensor:
        """Reshape values along one axis so that they broadcast over the grid."""
        return values.reshape([-1] + [values.shape[1] if other == axis else 1 for other in range(self.dims)])

    def per_sample(self, values: Shaped[Tensor, " batch"]) -> Tensor:
        """Reshape one value per sample so that it broadcasts over the grid."""
        return values.reshape(-1, *[1] * self.dims)


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
    """Grow a box along its relatively shortest side until it contains `num_hidden` cells; `axes` breaks ties.

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
