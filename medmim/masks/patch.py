"""The `patch` mask: MaskAnyNet's one window with the proportions of the image (arXiv 2511.12480)."""

from __future__ import annotations

from dataclasses import dataclass

from medmim.masks.base import Mask
from medmim.masks.box_shapes import one_box
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class PatchMask(Mask):
    """Hide one window, the same share of every axis; on a square grid that is a square."""

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank the window's cells first."""
        return one_box(draw, draw.grid)
