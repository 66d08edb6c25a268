"""The `grid` mask: MaskAnyNet's regular lattice of small windows (arXiv 2511.12480)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class GridMask(Mask):
    """Hide one window in every period along each axis; windows differ by at most one cell.

    Attributes:
        period: cells from one window to the next; None: drawn for each sample, from 3 to half the grid.
    """

    period: int | None = None

    def __post_init__(self) -> None:
        """Refuse a period without room for a window beside a visible cell."""
        super().__post_init__()
        if self.period is not None and self.period < 2:
            raise UsageError(f"mask 'grid', option period: expected 2 cells or more, got {self.period}")

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank cells by their place in the period: all windows grow at once, shell by shell."""
        half = max(draw.grid) // 2
        least, most = (min(3, max(2, half)), max(2, half)) if self.period is None else (self.period,) * 2
        period = least + draw.below(torch.tensor([[most - least + 1]], device="cpu"))
        phase = draw.below(period.expand(-1, draw.dims))
        scale = most ** draw.shuffled_axes()
        shell = torch.zeros((draw.batch, *draw.grid), dtype=torch.int64, device="cpu")
        turn = torch.zeros_like(shell)
        for axis, place in enumerate(draw.mirrored_places()):
            within = (place + phase[:, [axis]]) % period
            shell = shell.maximum(draw.along(axis, within))
            turn += draw.along(axis, within * scale[:, [axis]])
        rank: Ranks = draw.noise() - turn - shell * most**draw.dims
        return rank
