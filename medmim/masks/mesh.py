"""The `mesh` mask: hidden cells spread as evenly as the grid allows (Miyazaki & Okita, arXiv 2505.08819).

The paper names the mask and its property, evenness, and publishes no formula. Here the cells are ranked by
void-and-cluster (Ulichney, SPIE 1913, 1993), the standard construction of blue noise: cells are removed where
hidden ones cluster and added where they leave the largest void. The highest ranks are even at every ratio.

A lattice, such as a checkerboard at a ratio of 0.5, would be slightly evener, but has very few positions,
which a network can memorise. A table of ranks has as many as the grid has cells; a random table, offset and
flips for each sample give thousands of different masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks, Size

_LONGEST_PERIOD = {1: 64, 2: 32, 3: 12}  # cells; larger grids repeat a table of ranks
_TABLES = 8
_SIGMA = 0.8  # cells; width of the Gaussian that measures clustering, the evenest of 0.6 … 1.5
_FIRST_SHARE = 0.25  # share of cells in the initial pattern
_UNIT = 2**12  # the Gaussian is rounded to integers, so that tables are equal on every platform


@dataclass(frozen=True, kw_only=True)
class MeshMask(Mask):
    """Hide an evenly spread set of cells: the highest ranks of a randomly placed void-and-cluster table."""

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank by a table of ranks with a random offset and flips; axes of one cell have no effect."""
        thick = replace(request, grid=tuple(length for length in request.grid if length > 1))
        period = tuple(min(length, _LONGEST_PERIOD[thick.dims]) for length in thick.grid)
        tables = _rank_tables(period)
        index = thick.per_sample(thick.integers_below(torch.tensor([[len(tables)]], device="cpu"))[:, 0])
        offset = thick.integers_below(torch.tensor([period], device="cpu").expand(thick.batch, -1))
        flips = thick.flips()
        for axis, (side, coordinate) in enumerate(zip(period, thick.coordinates(), strict=True)):
            moved = (offset[:, [axis]] + flips[:, [axis]] * coordinate) % side
            index = index * side + thick.along_axis(axis, moved)
        rank = tables.flatten()[index] + thick.noise()  # noise breaks ties between repetitions
        return rank.reshape(request.batch, *request.grid)


@lru_cache(maxsize=32)
def _rank_tables(period: Size) -> Int[Tensor, "tables *period"]:
    """Return tables of the ranks 0 … cells - 1, built by void-and-cluster on a periodic grid.

    Axes of equal length are exchanged in further copies, so that none is preferred.
    """
    cells = math.prod(period)
    first = max(1, round(_FIRST_SHARE * cells))
    blur = _Blur(period)
    pattern, density = _even_pattern(blur, cells, first)
    ranks = np.zeros((_TABLES, cells), dtype=np.int64)
    rows = np.arange(_TABLES)
    removed, left = pattern.copy(), density.copy()
    for rank in range(first - 1, -1, -1):
        tightest = _tightest(removed, left)
        ranks[rows, tightest], removed[rows, tightest] = rank, False
        left -= blur.around(tightest)
    for rank in range(first, cells):
        void = _largest_void(pattern, density)
        ranks[rows, void], pattern[rows, void] = rank, True
        density += blur.around(void)
    tables = torch.from_numpy(ranks.reshape(_TABLES, *period))
    turns = [
        axes for axes in permutations(range(len(period))) if tuple(period[axis] for axis in axes) == period
    ]
    return torch.cat([tables.permute(0, *(axis + 1 for axis in axes)) for axes in turns])


class _Blur:
    """The Gaussian density that one chosen cell adds to every cell of a periodic grid."""

    def __init__(self, period: Size) -> None:
        self.period = period
        self.along: list[np.ndarray] = []  # for each axis, (position of the cell, position)
        for side in period:
            steps = np.abs(np.subtract.outer(np.arange(side), np.arange(side)))
            distance = np.minimum(steps, side - steps)
            self.along.append(np.rint(np.exp(-(distance**2) / (2 * _SIGMA**2)) * _UNIT).astype(np.int64))

    def around(self, cells: np.ndarray) -> np.ndarray:
        """Return the density, (tables, cells), that one cell of each table adds."""
        position = np.unravel_index(cells, self.period)
        density = np.ones((len(cells), 1), dtype=np.int64)
        for along, at in zip(self.along, position, strict=True):
            density = (density[:, :, None] * along[at][:, None, :]).reshape(len(cells), -1)
        return density


def _even_pattern(blur: _Blur, cells: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` evenly spread cells of each table, moved from clusters to voids, and their density."""
    start = np.random.default_rng(0).random((_TABLES, cells)).argsort(axis=1)[:, :count]
    rows = np.arange(_TABLES)
    pattern = np.zeros((_TABLES, cells), dtype=bool)
    np.put_along_axis(pattern, start, values=True, axis=1)
    density: np.ndarray = np.zeros((_TABLES, cells), dtype=np.int64)
    for number in range(count):
        density += blur.around(start[:, number])
    moving = np.ones(_TABLES, dtype=bool)
    for _ in range(cells):
        tightest = _tightest(pattern, density)
        fewer, thinner = pattern.copy(), density - blur.around(tightest)
        fewer[rows, tightest] = False
        void = _largest_void(fewer, thinner)
        moving &= void != tightest
        if not moving.any():
            break
        fewer[rows, void] = True
        pattern[moving], density[moving] = fewer[moving], (thinner + blur.around(void))[moving]
    return pattern, density


def _tightest(pattern: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return the chosen cell of each table with the highest density around it."""
    tightest: np.ndarray = np.where(pattern, density, -1).argmax(axis=1)
    return tightest


def _largest_void(pattern: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return the cell of each table with the lowest density that is not chosen yet."""
    void: np.ndarray = np.where(pattern, np.iinfo(np.int64).max, density).argmin(axis=1)
    return void
