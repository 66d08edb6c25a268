"""The `block` mask: several boxes of varying size and aspect, as in BEiT (arXiv 2106.08254)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.box_shapes import inside
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class BlockMask(Mask):
    """Hide boxes one after the other until the count is reached; the last one is cut to it.

    Attributes:
        smallest: cells of the smallest box, as a share of the grid; BEiT's is 16 of 196.
        aspect: longest to shortest side of a box is at most about 1 to this.
    """

    smallest: float = 16 / 196
    aspect: float = 0.3

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        super().__post_init__()
        for name, value in (("smallest", self.smallest), ("aspect", self.aspect)):
            if not 0 < value <= 1:
                raise UsageError(
                    f"mask 'block', option {name}: expected a number above 0 and up to 1, got {value:g}"
                )

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank cells by the box that first covers them; each box covers at least one new cell."""
        places, order, priority = (
            request.coordinates(),
            request.scan_order(request.mirrored_coordinates()),
            request.noise(),
        )
        rank = torch.full((request.batch, *request.grid), -math.inf, dtype=torch.float64, device="cpu")
        free = torch.ones_like(rank, dtype=torch.bool)
        number = 0
        while True:
            left = request.num_hidden - request.cells + free.flatten(1).sum(dim=1, keepdim=True)
            if int(left.max()) <= 0:
                return rank
            corner, sides = self._box(request, priority * free, left)
            new = inside(request, places, corner, sides) & free
            rank = torch.where(new, -number - order, rank)
            free &= ~new
            number += 1

    def _box(
        self, request: MaskRequest, priority: Float[Tensor, "batch *grid"], left: Int[Tensor, "batch 1"]
    ) -> tuple[Int[Tensor, "batch dims"], Int[Tensor, "batch dims"]]:
        """Draw one box a sample around a cell that is still visible.

        Args:
            request: the masks to draw.
            priority: the box is drawn around the cell with the highest; 0 where a box lies already.
            left: cells that are still to be hidden; not more than half of all at once, to make them several.
        """
        most = left.clamp(min=1, max=max(request.num_hidden // 2, 1))
        least = most.clamp(max=max(1, round(self.smallest * request.cells)))
        volume = least + request.uniform(1) * (most - least)
        stretch = (request.uniform(request.dims) - 0.5) * -math.log(self.aspect)
        stretch = (stretch - stretch.mean(dim=1, keepdim=True)).exp()
        sides = (volume ** (1 / request.dims) * stretch).round().long().clamp(min=1).minimum(request.sizes())
        chosen = priority.flatten(1).argmax(dim=1)
        anchor = torch.stack(torch.unravel_index(chosen, request.grid), dim=1)
        corner = (anchor - request.integers_below(sides)).clamp(min=0).minimum(request.sizes() - sides)
        return corner, sides
