"""The `mesh` mask: hidden cells spread as evenly as the grid allows (Miyazaki & Okita, arXiv 2505.08819).

The paper names the mask and its property, evenness, and gives no formula. Here the cells are ranked by an
ordered dither and thresholded at the exact count; a random phase, random flips and a random order of the axes
for each sample keep the network from learning the lattice.

Two dithers share the ratios. Where a ratio has a square lattice, Bayer's matrix, extended to any number of
axes, gives it: a checkerboard at 1/2, one kept cell in four at 3/4 in 2D, two opposite corners of each block
at 3/4 and one at 7/8 in 3D. Between them a half-filled level of that matrix is hardly evener than chance (in
3D at 0.9), so there the rank is the phase of a plane wave, whose wave vector is the evenest for the ratio:
at 4/5 in 2D, for example, the kept cells lie a knight's move apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations_with_replacement, product

import torch
from jaxtyping import Int
from torch import Tensor

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks

_LATTICES = {1: (1 / 2,), 2: (1 / 2, 3 / 4), 3: (1 / 2, 3 / 4, 7 / 8)}  # hidden shares
_LONGEST_PERIOD = 20  # cells; longer waves bring nothing measurable between 0.1 and 0.95
_REACH = 4  # cells over which kept cells should avoid each other
_WINDOW = 0.8  # cells; standard deviation of the window whose density should not vary
_FINE = 2**31


@dataclass(frozen=True, kw_only=True)
class MeshMask(Mask):
    """Hide an evenly spread set of cells: the highest ranks of an ordered dither, placed at random."""

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank by the dither that is evenest for the count; axes of one cell play no part."""
        thick = replace(request, grid=tuple(length for length in request.grid if length > 1))
        nearest = min(
            _LATTICES[thick.dims], key=lambda share: abs(request.num_hidden - share * request.cells)
        )
        on_lattice = abs(request.num_hidden - nearest * request.cells) <= 0.5
        rank = _bayer(thick, checkered=nearest == 0.5) if on_lattice else _wave(thick)
        return rank.reshape(request.batch, *request.grid)


def corner_order(dims: int, *, checkered: bool) -> Int[Tensor, " corners"]:
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


def _bayer(request: MaskRequest, *, checkered: bool) -> Ranks:
    """Rank by Bayer's matrix: the lowest ranks, which stay visible, form the sparsest even lattice."""
    levels = max(1, (max(request.grid) - 1).bit_length())
    side = 2**levels  # one period covers the grid, so ranks are unique and the count is exact
    phase, flips = request.integers_below(torch.full((1, request.dims), side, device="cpu")), request.flips()
    # a partly filled matrix prefers some axes to others, so their order is drawn
    shifts = request.shuffled_axes()
    places = [
        (phase[:, [axis]] + flips[:, [axis]] * place) % side
        for axis, place in enumerate(request.coordinates())
    ]
    order = corner_order(request.dims, checkered=checkered)
    rank = torch.zeros((request.batch, *request.grid), dtype=torch.int64, device="cpu")
    for level in range(levels):
        corner = torch.zeros_like(rank)
        for axis, place in enumerate(places):
            corner += request.along_axis(axis, ((place >> level) & 1) << shifts[:, [axis]])
        rank = (rank << request.dims) + order[corner]
    return rank


def _wave(request: MaskRequest) -> Ranks:
    """Rank by the phase of the evenest plane wave, and cells of one phase by a golden one."""
    numbers, period = _evenest_wave(request.dims, request.num_hidden, request.cells)
    fine = [round(_FINE * step) for step in _golden_steps(request.dims)]
    axes, flips = request.shuffled_axes(), request.flips()
    rank = torch.zeros((request.batch, *request.grid), dtype=torch.int64, device="cpu")
    for vector, cycle in ((numbers, period), (fine, _FINE)):
        steps = torch.tensor(vector, dtype=torch.int64, device="cpu")[axes] * flips
        phase = request.integers_below(torch.tensor([[cycle]], device="cpu"))
        wave = request.per_sample(phase[:, 0]).expand_as(rank)
        for axis, place in enumerate(request.coordinates()):
            wave = wave + request.along_axis(axis, steps[:, [axis]] * place % cycle)
        rank = rank * cycle + wave % cycle
    return rank


@lru_cache(maxsize=1024)
def _evenest_wave(dims: int, hide: int, cells: int) -> tuple[tuple[int, ...], int]:
    """Return the wave vector, as numerators and a common denominator, for `hide` hidden of `cells` cells.

    Two cells a step apart are both kept as often as two arcs of the circle, turned by the phase of that step,
    overlap. The sum over all steps within reach, weighed by a Gaussian, is the variance of the local density
    up to a constant; the vector with the least is the evenest.
    """
    kept = 1 - hide / cells
    waves = _waves(dims)
    steps = _steps(dims)
    table = torch.tensor([numbers for numbers, _ in waves], dtype=torch.float64, device="cpu")
    periods = torch.tensor([[period] for _, period in waves], dtype=torch.float64, device="cpu")
    phase = (table @ steps.T) % periods / periods
    overlap = (kept - phase).clamp(min=0) + (kept - 1 + phase).clamp(min=0)
    weight = torch.exp(-steps.square().sum(dim=1) / (4 * _WINDOW**2))
    unevenness = (overlap @ weight * 1e9).round()  # equal vectors stay equal on every processor
    return waves[int(unevenness.argmin())]


def _waves(dims: int) -> list[tuple[tuple[int, ...], int]]:
    """Return all wave vectors of short periods, each once: flips and axis orders are drawn later."""
    return [
        (numbers, period)
        for period in range(2, _LONGEST_PERIOD + 1)
        for numbers in combinations_with_replacement(range(period // 2 + 1), dims)
        if math.gcd(period, *numbers) == 1
    ]


def _steps(dims: int) -> Tensor:
    """Return half of the steps within reach; the other half mirrors it."""
    inside = [
        step
        for step in product(range(-_REACH, _REACH + 1), repeat=dims)
        if step > (0,) * dims and sum(along**2 for along in step) <= _REACH**2
    ]
    return torch.tensor(inside, dtype=torch.float64, device="cpu")


def _golden_steps(dims: int) -> list[float]:
    """Return powers of the generalised golden ratio, whose multiples fill a circle most evenly."""
    root = 2.0
    for _ in range(64):  # the fixed point of x = (1 + x)^(1 / (dims + 1))
        root = (1 + root) ** (1 / (dims + 1))
    return [root ** -(axis + 1) for axis in range(dims)]
