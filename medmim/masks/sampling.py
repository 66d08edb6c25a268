"""What a mask is asked for in one draw, and the chance it may use: on the CPU, from one generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from medmim.shapes import Size

Weights = Float[Tensor, "batch *grid"]


@dataclass(frozen=True, eq=False)
class MaskRequest:
    """One request for masks.

    Attributes:
        batch: number of samples.
        grid: cells along each axis.
        hide: cells to hide in every sample.
        generator: CPU generator; the only source of chance.
        weight: tissue in each cell, at least 0, or None where the image is not known.
    """

    batch: int
    grid: Size
    hide: int
    generator: torch.Generator
    weight: Weights | None = None

    @property
    def dims(self) -> int:
        """Number of axes."""
        return len(self.grid)

    @property
    def cells(self) -> int:
        """Number of cells of one sample."""
        return math.prod(self.grid)

    def uniform(self, *shape: int) -> Float[Tensor, "batch *shape"]:
        """Return independent numbers in [0, 1), `shape` of them for each sample."""
        size = (self.batch, *shape)
        return torch.rand(size, generator=self.generator, dtype=torch.float64, device="cpu")

    def noise(self) -> Float[Tensor, "batch *grid"]:
        """Return independent noise in [0, 1) for every cell (float64, so that ties do not happen)."""
        return self.uniform(*self.grid)

    def below(self, limit: Int[Tensor, "#batch n"]) -> Int[Tensor, "batch n"]:
        """Return whole numbers from 0 to `limit` - 1, each as likely as the others."""
        return (self.uniform(limit.shape[1]) * limit).long()

    def choice(self, table: Int[Tensor, "rows n"]) -> Int[Tensor, "batch n"]:
        """Return one row of a table for each sample."""
        return table[(self.uniform() * len(table)).long()]

    def shuffled_axes(self) -> Int[Tensor, "batch dims"]:
        """Return an order of the axes for each sample."""
        return self.uniform(self.dims).argsort(dim=1)

    def flips(self) -> Int[Tensor, "batch dims"]:
        """Return 1 or -1 for each axis of each sample."""
        return 1 - 2 * (self.uniform(self.dims) < 0.5).long()

    def sizes(self) -> Int[Tensor, "1 dims"]:
        """Return the grid as a tensor."""
        return torch.tensor([self.grid], dtype=torch.int64, device="cpu")

    def order(self, places: Sequence[Int[Tensor, "#batch _"]]) -> Float[Tensor, "#batch *grid"]:
        """Return a number in [0, 1) for each cell that rises row by row, along the given coordinates."""
        number = torch.zeros((1, *[1] * self.dims), dtype=torch.float64, device="cpu")
        for axis, place in enumerate(places):
            number = number * self.grid[axis] + self.along(axis, place)
        return number / self.cells

    def places(self) -> list[Int[Tensor, "1 _"]]:
        """Return the coordinates of the cells along each axis."""
        return [torch.arange(length, device="cpu").unsqueeze(0) for length in self.grid]

    def mirrored_places(self) -> list[Int[Tensor, "batch _"]]:
        """Return coordinates counted from a random end of each axis, for each sample."""
        flips = self.flips().unbind(dim=1)
        return [
            torch.where(flip[:, None] < 0, place.flip(dims=[1]), place)
            for flip, place in zip(flips, self.places(), strict=True)
        ]

    def along(self, axis: int, values: Shaped[Tensor, "#batch _"]) -> Tensor:
        """Shape values along one axis so that they spread over the grid."""
        return values.reshape([-1] + [values.shape[1] if other == axis else 1 for other in range(self.dims)])

    def each(self, values: Shaped[Tensor, " batch"]) -> Tensor:
        """Shape one value a sample so that it spreads over the grid."""
        return values.reshape(-1, *[1] * self.dims)
