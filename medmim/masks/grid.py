"""The `grid` mask: MaskAnyNet's regular grid of small windows (arXiv 2511.12480)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class GridMask(Mask):
    """Hide one window per period along each axis; windows differ in size by at most one cell.

    Attributes:
        period: distance between windows in cells; None: drawn for each sample, from 3 to half the grid.
    """

    period: int | None = None

    def __post_init__(self) -> None:
        """Check that a period has room for a hidden and a visible cell."""
        super().__post_init__()
        if self.period is not None and self.period < 2:
            raise UsageError(f"mask 'grid', option period: expected 2 cells or more, got {self.period}")

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank cells by their position within the period: all windows grow together, shell by shell."""
        half = max(request.grid) // 2
        least, most = (min(3, max(2, half)), max(2, half)) if self.period is None else (self.period,) * 2
        period = least + request.integers_below(torch.tensor([[most - least + 1]], device="cpu"))
        phase = request.integers_below(period.expand(-1, request.dims))
        scale = most ** request.shuffled_axes()
        shell = torch.zeros((request.batch, *request.grid), dtype=torch.int64, device="cpu")
        turn = torch.zeros_like(shell)
        for axis, coordinate in enumerate(request.mirrored_coordinates()):
            within = (coordinate + phase[:, [axis]]) % period
            shell = shell.maximum(request.along_axis(axis, within))
            turn += request.along_axis(axis, within * scale[:, [axis]])
        rank: Ranks = request.noise() - turn - shell * most**request.dims
        return rank
