"""What every mask is: a rule that ranks the cells of a grid, of which the highest are hidden."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from medmim.errors import ShapeError, UsageError
from medmim.masks.sampling import MaskRequest, Weights
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
        max_ratio: draw the ratio of each batch between `ratio` and this share; all samples of a batch hide
            equally many cells. None: `ratio` is fixed.
        looks_at_tissue: whether the rule uses the weights given to `sample`; others ignore them.
    """

    ratio: float
    max_ratio: float | None = None

    looks_at_tissue: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse a ratio that would hide nothing or everything, and a range that runs backwards."""
        if not 0.0 < self.ratio < 1.0:
            raise UsageError(f"--ratio: expected a number between 0 and 1, both excluded, got {self.ratio:g}")
        if self.max_ratio is not None and not self.ratio < self.max_ratio < 1.0:
            raise UsageError(
                f"mask option max_ratio: expected a number between --ratio {self.ratio:g} and 1, "
                f"got {self.max_ratio:g}"
            )

    @property
    def ratios(self) -> tuple[float, ...]:
        """The requested ratio, or both ends of its range."""
        return (self.ratio,) if self.max_ratio is None else (self.ratio, self.max_ratio)

    @abstractmethod
    def rank(self, draw: MaskRequest) -> Ranks:
        """Return a rank for each cell of each sample; the cells with the highest ranks are hidden first."""

    def sample(
        self,
        batch: int,
        grid: Sequence[int],
        *,
        generator: torch.Generator,
        weight: Weights | None = None,
    ) -> Hidden:
        """Draw one mask a sample.

        Args:
            batch: number of samples.
            grid: cells along each spatial axis.
            generator: CPU generator; the only source of chance.
            weight: tissue in each cell, (batch, *grid), at least 0; only for rules that look at it.

        Returns:
            Boolean (batch, *grid), True = hidden, with equally many hidden cells in every sample: exactly
            `hidden_count`, or a count of the range where `max_ratio` is set.

        Raises:
            ShapeError: for fewer than two cells, or weights of another shape or below 0.
        """
        size = tuple(grid)
        hide = self._count(math.prod(size), generator)
        _check_weight(weight, (batch, *size))
        rank = self.rank(MaskRequest(batch, size, hide, generator, weight)).flatten(1)
        hidden = torch.zeros(rank.shape, dtype=torch.bool, device="cpu")  # whatever the default device is
        hidden.scatter_(1, rank.topk(hide, dim=1, sorted=False).indices, value=True)
        return hidden.reshape(batch, *size)

    def _count(self, cells: int, generator: torch.Generator) -> int:
        least = hidden_count(cells, self.ratio)
        if self.max_ratio is None:
            return least
        most = hidden_count(cells, self.max_ratio)
        return int(torch.randint(least, most + 1, (), generator=generator, device="cpu"))


def _check_weight(weight: Weights | None, shape: tuple[int, ...]) -> None:
    if weight is None:
        return
    if tuple(weight.shape) != shape or weight.device.type != "cpu":
        raise ShapeError(
            f"weights of a mask: expected {'×'.join(map(str, shape))} on the cpu (batch and grid), "
            f"got {'×'.join(map(str, weight.shape))} on {weight.device.type}"
        )
    if not bool((weight >= 0).all() and weight.isfinite().all()):
        raise ShapeError("weights of a mask: expected finite numbers of at least 0; give the share of tissue")
