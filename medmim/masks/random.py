"""The `random` mask: independent cells, as in MAE and SparK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medmim.masks.base import Mask
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class RandomMask(Mask):
    """Hide cells drawn uniformly without replacement."""

    def rank(self, batch: int, grid: Sequence[int], *, generator: torch.Generator) -> Ranks:
        """Rank by independent noise (float64, so that ties do not happen)."""
        return torch.rand((batch, *grid), generator=generator, dtype=torch.float64, device="cpu")
