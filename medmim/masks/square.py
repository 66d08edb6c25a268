"""The `square` mask: one square, or one cube in 3D, at a random position."""

from __future__ import annotations

from dataclasses import dataclass

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest, one_box
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class SquareMask(Mask):
    """Hide one contiguous box whose sides are as equal as the grid allows; one face may be incomplete."""

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank the cells of the box first."""
        return one_box(request, [1] * request.dims)
