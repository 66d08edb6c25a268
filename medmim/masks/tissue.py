"""The `tissue` mask: any rule, but tissue is hidden before air; and how much of a cell is tissue.

A mask that adapts to the image is MaskAnyNet's first open question (arXiv 2511.12480). Air is easy to rebuild
and teaches little; yet if all tissue were hidden, nothing could be learnt from what is visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.errors import UsageError
from medmim.masks.base import Mask
from medmim.masks.mesh import MeshMask
from medmim.masks.sampling import MaskRequest, Weights
from medmim.shapes import Images, Ranks, grid_of

_AIR = 0.1  # of the range from a scan's darkest to its brightest voxel; above lies tissue


@dataclass(frozen=True, kw_only=True)
class TissueMask(Mask):
    """Hide tissue first, in the order of another rule, but leave some of it visible.

    Without weights every cell counts as tissue.

    Attributes:
        rule: the order in which cells of one kind are hidden; None: mesh. A name in a settings file.
        weighted: draw tissue cells at random instead, with chances that follow their weights.
        least: a cell with at least this weight is tissue.
        most: share of the tissue that may be hidden before all air is.
    """

    rule: Mask | None = None
    weighted: bool = False
    least: float = 0.1
    most: float = 0.9

    looks_at_tissue: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse shares that are none, and two orders at once."""
        super().__post_init__()
        for name, value in (("least", self.least), ("most", self.most)):
            if not 0 < value <= 1:
                raise UsageError(
                    f"mask 'tissue', option {name}: expected a number above 0 and up to 1, got {value:g}"
                )
        if self.weighted and self.rule is not None:
            raise UsageError("mask 'tissue': expected one of the options rule, weighted, got both")

    def rank(self, draw: MaskRequest) -> Ranks:
        """Rank tissue by the rule, then air by the rule, then the tissue that should stay visible."""
        base = self._base(draw)
        if draw.weight is None:
            return base
        by_rule = base.flatten(1).argsort(dim=1, descending=True)
        tissue = (draw.weight.flatten(1) >= self.least).gather(1, by_rule)
        before = tissue.cumsum(dim=1) - 1
        count = tissue.sum(dim=1, keepdim=True)
        after = count + (~tissue).cumsum(dim=1) - 1
        last = draw.cells + before
        place = torch.where(tissue, torch.where(before < (count * self.most).floor(), before, last), after)
        return -torch.empty_like(place).scatter_(1, by_rule, place).reshape(base.shape)

    def _base(self, draw: MaskRequest) -> Tensor:
        if not self.weighted:
            return (self.rule or MeshMask(ratio=self.ratio)).rank(draw)
        noise = draw.noise()
        if draw.weight is None:
            return noise
        # the largest of log(u) / weight: drawing without replacement, with chances that follow the weights
        return noise.log() / draw.weight.double().clamp(min=1e-6)


def tissue_share(images: Images, grid: Sequence[int]) -> Weights:
    """Return the share of tissue voxels in each mask cell, on the CPU.

    A voxel is tissue if it is brighter, in any channel, than a tenth of the range of its scan and channel.

    Args:
        images: (batch, channels, *space); any scale.
        grid: cells along each axis; they divide the image.

    Raises:
        ShapeError: if the cells do not divide the image.
    """
    space = tuple(range(2, images.dim()))
    low, high = images.amin(dim=space, keepdim=True), images.amax(dim=space, keepdim=True)
    tissue = (images > low + _AIR * (high - low)).any(dim=1).float()
    size = tuple(images.shape[2:])
    cell = tuple(length // cells for length, cells in zip(size, grid, strict=True))
    grid_of(size, cell)
    pool = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    return pool(tissue.unsqueeze(1), cell)[:, 0].cpu()
