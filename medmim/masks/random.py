"""The `random` mask: independent cells, as in MAE and SparK."""

from __future__ import annotations

from dataclasses import dataclass

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class RandomMask(Mask):
    """Hide cells drawn uniformly without replacement."""

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank by independent noise."""
        return draw.noise()
