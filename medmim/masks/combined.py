"""The `combined` mask: a mixture, each sample under one of several masks; MaskAnyNet's is patch and grid."""

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
    """Draw a mask for each sample.

    Attributes:
        masks: masks with their weights; none: patch and grid alike. In a settings file they are names:
            `mask_options: {masks: {mesh: 2, random: 1}}`. All of them hide this mask's count.
    """

    masks: tuple[tuple[Mask, float], ...] = ()

    looks_at_tissue: ClassVar[bool] = True  # one of them may

    def __post_init__(self) -> None:
        """Refuse weights that are none."""
        super().__post_init__()
        weights = [weight for _, weight in self.masks]
        if weights and not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise UsageError(
                "mask 'combined', option masks: expected weights of at least 0, not all 0, "
                f"got {', '.join(f'{weight:g}' for weight in weights)}"
            )

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank by the mask that is drawn for each sample."""
        even = ((PatchMask(ratio=self.ratio), 1.0), (GridMask(ratio=self.ratio), 1.0))
        masks, weights = zip(*(self.masks or even), strict=True)
        ends = torch.tensor(weights, dtype=torch.float64, device="cpu").cumsum(dim=0)
        chosen = torch.bucketize(draw.uniform() * ends[-1], ends, right=True)
        rank = torch.zeros((draw.batch, *draw.grid), dtype=torch.float64, device="cpu")
        for number, mask in enumerate(masks):  # all draw for all samples: one choice changes no other draw
            rank = torch.where(draw.each(chosen == number), mask.rank(draw).double(), rank)
        return rank
