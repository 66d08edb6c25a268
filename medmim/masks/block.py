"""The `block` mask: BEiT's blockwise masking (Bao et al., arXiv 2106.08254, algorithm 1) with an exact count.

As in BEiT, boxes are drawn one after the other at random positions inside the grid, with a volume between the
smallest one and the number of cells still to be hidden and a random aspect, until enough cells are hidden; a
box is rejected if it hides too many. BEiT stops after ten rejections with slightly fewer cells; here the
cells that are missing then are taken from the border of the hidden region. In 3D each axis has its own
aspect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest, inside
from medmim.shapes import Ranks

_ATTEMPTS = 10  # per box, as in BEiT's code


@dataclass(frozen=True, kw_only=True)
class BlockMask(Mask):
    """Hide boxes one after the other until the count is reached.

    Attributes:
        smallest: volume of the smallest box as a share of the grid; BEiT's is 16 of 196 cells.
        aspect: smallest ratio of two sides of a box; the largest is its inverse.
    """

    smallest: float = 16 / 196
    aspect: float = 0.3

    def __post_init__(self) -> None:
        """Check the shares."""
        super().__post_init__()
        for name, value in (("smallest", self.smallest), ("aspect", self.aspect)):
            if not 0 < value <= 1:
                raise UsageError(
                    f"mask 'block', option {name}: expected a number above 0 and up to 1, got {value:g}"
                )

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank cells by the box that first covers them, then by their distance to the boxes."""
        coordinates = request.coordinates()
        rank = torch.full((request.batch, *request.grid), -math.inf, dtype=torch.float64, device="cpu")
        hidden = torch.zeros_like(rank, dtype=torch.bool)
        attempts = torch.zeros(request.batch, dtype=torch.int64, device="cpu")
        number = 0
        while True:
            left = request.num_hidden - hidden.flatten(1).sum(dim=1)
            active = (left > 0) & (attempts < _ATTEMPTS)
            if not active.any():
                return _fill_border(request, rank, hidden, number)
            corner, sides = self._box(request, left)
            new = inside(request, coordinates, corner, sides) & ~hidden
            count = new.flatten(1).sum(dim=1)
            fits = ((sides < request.sizes()) | (request.sizes() == 1)).all(dim=1)
            accepted = active & fits & (count > 0) & (count <= left)
            new &= request.per_sample(accepted)
            rank = rank.masked_fill(new, -number)
            hidden |= new
            attempts = torch.where(accepted, 0, attempts + 1)
            number += 1

    def _box(
        self, request: MaskRequest, left: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, "batch dims"], Int[Tensor, "batch dims"]]:
        """Draw the corner and sides of one box per sample, given the number of cells still to be hidden."""
        least = max(1, round(self.smallest * request.cells))
        volume = least + request.uniform(1) * (left.unsqueeze(1) - least)
        stretch = (request.uniform(request.dims) - 0.5) * -math.log(self.aspect)
        if request.dims == 2:
            stretch[:, 1] = -stretch[:, 0]  # the ratio of both sides is log-uniform
        stretch = (stretch - stretch.mean(dim=1, keepdim=True)).exp()
        sides = (volume ** (1 / request.dims) * stretch).round().long().clamp(min=1).minimum(request.sizes())
        return request.integers_below(request.sizes() - sides + 1), sides


def _fill_border(
    request: MaskRequest, rank: Float[Tensor, "batch *grid"], hidden: Bool[Tensor, "batch *grid"], number: int
) -> Ranks:
    """Rank the cells outside all boxes, those that touch the hidden region first, in random order."""
    pool = F.avg_pool2d if request.dims == 2 else F.avg_pool3d
    noise = request.noise()
    while True:
        missing = request.num_hidden - hidden.flatten(1).sum(dim=1)
        if int(missing.max()) <= 0:
            return rank
        padded = F.pad(hidden.double().unsqueeze(1), [1, 1] * request.dims)
        near = pool(padded, 3, stride=1)[:, 0]
        score = (near + noise / 1e3).masked_fill(hidden, -math.inf).flatten(1)
        # one layer of the border at a time, the most enclosed cells first
        order = score.argsort(dim=1, descending=True).argsort(dim=1).reshape(hidden.shape)
        isolated = ~hidden.flatten(1).any(dim=1)  # no box was accepted: start anywhere
        reachable = (near > 0) | request.per_sample(isolated)
        chosen = (order < request.per_sample(missing)) & ~hidden & reachable
        number += 1
        rank = torch.where(chosen, -number - order / request.cells, rank)
        hidden = hidden | chosen
