"""The `square` mask: one square, in 3D one cube, anywhere."""

from __future__ import annotations

from dataclasses import dataclass

from medmim.masks.base import Mask
from medmim.masks.box_shapes import one_box
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class SquareMask(Mask):
    """Hide one contiguous box with sides as equal as the grid allows; one face may be incomplete."""

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank the box's cells first."""
        return one_box(draw, [1] * draw.dims)
