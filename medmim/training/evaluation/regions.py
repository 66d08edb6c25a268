"""Regions: overlapping groups of classes with independent probabilities, and the labels written from them.

Labels are written region by region in the stated order: the class of region k where its probability exceeds
0.5, over what earlier regions have written (nnU-Net's `regions_class_order`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medmim.data.loading.preprocessing_plan import Regions
from medmim.shapes import Features, Images

THRESHOLD = 0.5
_SMALLEST = 1e-6  # distance of averaged probabilities from 0 and 1, whose logits would be infinite


def labels_of(
    probabilities: Float[Tensor, "channels *space"], regions: Regions | None
) -> Int[Tensor, "*space"]:
    """Return class indices: the most probable class, or the class of the last region above 0.5."""
    if regions is None:
        return probabilities.argmax(dim=0)
    numbers = torch.arange(1, len(regions) + 1).reshape(-1, *[1] * (probabilities.dim() - 1))
    return ((probabilities > THRESHOLD) * numbers).amax(dim=0)


def class_groups(names: Mapping[int, str], regions: Regions | None) -> dict[str, tuple[int, ...]]:
    """Return what is scored: the class indices of each region, or of each class alone."""
    return dict(regions) if regions else {name: (number,) for number, name in sorted(names.items())}


def membership(regions: Regions) -> Bool[Tensor, "regions classes"]:
    """Return whether each region contains background and each class."""
    table = torch.zeros(len(regions), len(regions) + 1, dtype=torch.bool)
    for row, (_, classes) in zip(table, regions, strict=True):
        row[list(classes)] = True
    return table


def class_outside(number: int, group: Sequence[int], regions: Regions | None) -> int:
    """Return the class of a voxel that is removed from a region: that of the regions which still hold it.

    `group` are the classes of the region; without regions it is background.
    """
    if regions is None:
        return 0
    holders = {one: {name for name, own in regions if one in own} for one in range(1, len(regions) + 1)}
    left = (one for one, own in holders.items() if one not in group and own < holders[number])
    return max(left, default=0)


class RegionProbabilities(nn.Module):
    """A network whose outputs are the probabilities of regions, so that averages are of probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Features:
        """Return probabilities, (batch, regions, *space)."""
        return torch.sigmoid(self.network(images).float())


def mean_logits(scores: Float[Tensor, "networks *any"], regions: Regions | None) -> Float[Tensor, "*any"]:
    """Return the mean of logits of classes, or the logits of the mean probabilities of regions."""
    if regions is None:
        return scores.mean(dim=0)
    return torch.sigmoid(scores).mean(dim=0).logit(eps=_SMALLEST)
