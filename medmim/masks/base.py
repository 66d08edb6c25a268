"""What every mask is: a rule that ranks the cells of a grid, of which the highest are hidden."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medmim.errors import ShapeError, UsageError
from medmim.shapes import Hidden, Ranks


def hidden_count(cells: int, ratio: float) -> int:
    """Return how many of `cells` are hidden at `ratio`: the nearest integer, at least one on each side."""
    if cells < 2:
        raise ShapeError(
            f"a mask needs at least 2 cells, got {cells}: use a larger --size or a smaller --cell"
        )
    return min(max(math.floor(cells * ratio + 0.5), 1), cells - 1)


@dataclass(frozen=True, kw_only=True)
class Mask(ABC):
    """A masking rule; subclasses say in which order cells are hidden, this class hides the exact count.

    Attributes:
        ratio: requested share of hidden cells; the realised one is `hidden_count(cells, ratio) / cells`.
    """

    ratio: float

    def __post_init__(self) -> None:
        """Refuse a ratio that would hide nothing or everything."""
        if not 0.0 < self.ratio < 1.0:
            raise UsageError(f"--ratio: expected a number between 0 and 1, both excluded, got {self.ratio:g}")

    @abstractmethod
    def rank(self, batch: int, grid: Sequence[int], *, generator: torch.Generator) -> Ranks:
        """Return a rank for each cell of each sample; the cells with the highest ranks are hidden first."""

    def sample(self, batch: int, grid: Sequence[int], *, generator: torch.Generator) -> Hidden:
        """Draw one mask a sample.

        Args:
            batch: number of samples.
            grid: cells along each spatial axis.
            generator: CPU generator; the only source of chance.

        Returns:
            Boolean (batch, *grid), True = hidden, with exactly `hidden_count` hidden cells in every sample.
        """
        rank = self.rank(batch, grid, generator=generator).flatten(1)
        count = hidden_count(math.prod(grid), self.ratio)
        hidden = torch.zeros(rank.shape, dtype=torch.bool, device="cpu")  # whatever the default device is
        hidden.scatter_(1, rank.topk(count, dim=1).indices, value=True)
        return hidden.reshape(batch, *grid)
