"""The `random` mask: cells drawn independently, as in MAE and SparK."""

from __future__ import annotations

from dataclasses import dataclass

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class RandomMask(Mask):
    """Hide cells drawn uniformly without replacement."""

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank cells by independent noise."""
        return request.noise()
