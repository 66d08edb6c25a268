"""The `tissue` mask, which hides tissue before air in the order of another rule, and the tissue share.

MaskAnyNet (arXiv 2511.12480) names masks that adapt to the image as its first open question. Air is easy to
reconstruct and teaches little, but hiding all tissue would leave nothing to predict it from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.arguments import checked
from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.mesh import MeshMask
from medmim.masks.sampling import MaskRequest, Weights
from medmim.shapes import Images, Ranks, grid_of

_AIR = 0.1  # tissue threshold, as a share of the intensity range


@dataclass(frozen=True, kw_only=True)
class TissueMask(Mask):
    """Hide tissue first, in the order of another rule, but keep some of it visible.

    Without weights every cell counts as tissue.

    Attributes:
        rule: mask whose ranks order tissue cells, and air cells; None: mesh. A name in a settings file.
        weighted: draw tissue cells at random instead, with probabilities proportional to their weights.
        least: a cell with at least this weight is tissue.
        most: share of the tissue that may be hidden before any air is.
    """

    rule: Mask | None = None
    weighted: bool = False
    least: float = 0.1
    most: float = 0.9

    uses_tissue: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the shares, and that only one order is given."""
        super().__post_init__()
        for name, value in (("least", self.least), ("most", self.most)):
            if not 0 < value <= 1:
                raise UsageError(
                    f"mask 'tissue', option {name}: expected a number above 0 and up to 1, got {value:g}"
                )
        if self.weighted and self.rule is not None:
            raise UsageError("mask 'tissue': expected one of the options rule, weighted, got both")

    def rank(self, request: MaskRequest) -> Ranks:
        """Rank tissue first, then air, then the tissue that should stay visible."""
        base = self._base(request)
        if request.weight is None:
            return base
        by_rule = base.flatten(1).argsort(dim=1, descending=True)
        tissue = (request.weight.flatten(1) >= self.least).gather(1, by_rule)
        before = tissue.cumsum(dim=1) - 1
        count = tissue.sum(dim=1, keepdim=True)
        after = count + (~tissue).cumsum(dim=1) - 1
        last = request.cells + before
        place = torch.where(tissue, torch.where(before < (count * self.most).floor(), before, last), after)
        return -torch.empty_like(place).scatter_(1, by_rule, place).reshape(base.shape)

    def _base(self, request: MaskRequest) -> Tensor:
        if not self.weighted:
            return (self.rule or MeshMask(ratio=self.ratio)).rank(request)
        noise = request.noise()
        if request.weight is None:
            return noise
        # largest log(u) / weight: sampling without replacement with probabilities proportional to the weights
        return noise.log() / request.weight.double().clamp(min=1e-6)


@checked
def tissue_share(images: Images, grid: Sequence[int]) -> Weights:
    """Return the share of tissue voxels in each mask cell, (batch, *grid) on the CPU.

    A voxel is tissue if, in any channel, it exceeds a tenth of that image's and channel's intensity range.
    """
    space = tuple(range(2, images.dim()))
    low, high = images.amin(dim=space, keepdim=True), images.amax(dim=space, keepdim=True)
    tissue = (images > low + _AIR * (high - low)).any(dim=1).float()
    size = tuple(images.shape[2:])
    cell = tuple(length // cells for length, cells in zip(size, grid, strict=True))
    grid_of(size, cell)
    pool = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    return pool(tissue.unsqueeze(1), cell)[:, 0].cpu()
