"""The `patch` mask: one window with the proportions of the image, as in MaskAnyNet (arXiv 2511.12480)."""

from __future__ import annotations

from dataclasses import dataclass

from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest, one_box
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class PatchMask(Mask):
    """Hide one window that covers the same share of every axis; a square on a square grid."""

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank the cells of the window first."""
        return one_box(request, request.grid)
