"""Batch Dice with cross entropy or focal loss, computed over the patches of all processes of a step.

The Dice of a few patches differs from that of many, since a class may be missing in one process. Sums over
voxels are reduced over processes before the division, as in nnU-Net (arXiv 1904.08128).
"""

from __future__ import annotations

import torch
from monai.losses.dice import DiceCELoss, DiceFocalLoss, DiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.networks.utils import one_hot
from torch import Tensor
from torch.nn import functional as F

from medmim.distributed import sum_of_all, together

CRITERIA: dict[str, type[DiceCELoss | DiceFocalLoss]] = {"dice_ce": DiceCELoss, "dice_focal": DiceFocalLoss}


def batch_dice(criterion: str) -> DiceCELoss | DiceFocalLoss:
    """Return the loss between logits (batch, classes, *space) and class labels (batch, 1, *space).

    Args:
        criterion: dice_ce, or dice_focal for small lesions.
    """
    # batch Dice, so that one patch without a class does not dominate the gradient
    options = {"to_onehot_y": True, "softmax": True, "include_background": False, "batch": True}
    loss = CRITERIA[criterion](**options)
    loss.dice = _DiceOfAll(**{**options, "to_onehot_y": loss.dice.to_onehot_y})
    return loss


def region_dice(criterion: str, scores: Tensor, target: Tensor, weight: float = 1.0) -> Tensor:
    """Return the loss between logits and masks of overlapping regions, both (batch, regions, *space).

    The cross entropy of a voxel is the sum over its regions, and the loss its mean over voxels: the mean over
    regions too scored lower in short trainings (`docs/results/nested_regions.json`).
    """
    other = F.binary_cross_entropy_with_logits if criterion == "dice_ce" else FocalLoss()
    dice: Tensor = _DiceOfAll(sigmoid=True, batch=True)(scores, target)
    return dice + weight * scores.shape[1] * other(scores, target)


class _DiceOfAll(DiceLoss):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's batch Dice over the patches of all processes; unchanged in one process."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - MONAI's name
        if together() == 1 or not self.training:
            alone: Tensor = super().forward(input, target)
            return alone
        if self.sigmoid:
            found, true = input.sigmoid(), target
        else:
            labels = target.shape[1] != input.shape[1]
            whole = one_hot(target, num_classes=input.shape[1]) if labels else target
            found, true = input.softmax(dim=1)[:, 1:], whole[:, 1:]
        axes = [0, *range(2, input.dim())]
        sums = sum_of_all(torch.stack([one.sum(dim=axes) for one in (found * true, found, true)]))
        dice = (2 * sums[0] + self.smooth_nr) / (sums[1] + sums[2] + self.smooth_dr)
        of_all: Tensor = (1 - dice).mean()
        return of_all
