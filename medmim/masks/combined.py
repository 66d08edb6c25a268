"""The `combined` mask: each sample uses one of several masks, by default MaskAnyNet's `patch` or `grid`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.grid import GridMask
from medmim.masks.patch import PatchMask
from medmim.masks.sampling import MaskRequest
from medmim.shapes import Ranks


@dataclass(frozen=True, kw_only=True)
class CombinedMask(Mask):
    """Choose a mask for each sample.

    Attributes:
        masks: masks with their weights; default: patch and grid with equal weights. In a settings file they
            are names: `mask_options: {masks: {mesh: 2, random: 1}}`. All of them hide this mask's count.
    """

    masks: tuple[tuple[Mask, float], ...] = ()

    uses_tissue: ClassVar[bool] = True  # one of them may

    def __post_init__(self) -> None:
        """Check the weights."""
        super().__post_init__()
        weights = [weight for _, weight in self.masks]
        if weights and not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise UsageError(
                "mask 'combined', option masks: expected weights of at least 0, not all 0, "
                f"got {', '.join(f'{weight:g}' for weight in weights)}"
            )

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank each sample's cells by the mask chosen for it."""
        even = ((PatchMask(ratio=self.ratio), 1.0), (GridMask(ratio=self.ratio), 1.0))
        masks, weights = zip(*(self.masks or even), strict=True)
        ends = torch.tensor(weights, dtype=torch.float64, device="cpu").cumsum(dim=0)
        chosen = torch.bucketize(request.uniform() * ends[-1], ends, right=True)
        rank = torch.zeros((request.batch, *request.grid), dtype=torch.float64, device="cpu")
        for number, mask in enumerate(masks):  # every mask draws for all samples: choices are independent
            rank = torch.where(request.per_sample(chosen == number), mask.rank(request).double(), rank)
        return rank
