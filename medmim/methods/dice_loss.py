"""Dice over all patches of a step, beside cross entropy or focal loss, however processes divide the step.

A Dice of a few patches is another loss than that of many: a class may be missing in a process's own share.
Sums of voxels are added over processes before they are divided, as in nnU-Net (arXiv 1904.08128).
"""

from __future__ import annotations

import torch
from monai.losses.dice import DiceCELoss, DiceFocalLoss, DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor

from medmim.distributed import sum_of_all, together

CRITERIA: dict[str, type[DiceCELoss | DiceFocalLoss]] = {"dice_ce": DiceCELoss, "dice_focal": DiceFocalLoss}


def batch_dice(criterion: str) -> DiceCELoss | DiceFocalLoss:
    """Return the loss from scores (batch, classes, *space) and labels (batch, 1, *space) of class numbers.

    Args:
        criterion: dice_ce, or dice_focal for small findings.
    """
    # Batch Dice: one patch without a class does not dominate the gradient.
    words = {"to_onehot_y": True, "softmax": True, "include_background": False, "batch": True}
    loss = CRITERIA[criterion](**words)
    loss.dice = _DiceOfAll(**{**words, "to_onehot_y": loss.dice.to_onehot_y})
    return loss


class _DiceOfAll(DiceLoss):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's batch Dice, of the patches of all processes; in one process it is MONAI's."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - its name in MONAI
        if together() == 1 or not self.training:
            alone: Tensor = super().forward(input, target)
            return alone
        if target.shape[1] != input.shape[1]:
            target = one_hot(target, num_classes=input.shape[1])
        found, true = input.softmax(dim=1)[:, 1:], target[:, 1:]
        axes = [0, *range(2, input.dim())]
        sums = sum_of_all(torch.stack([one.sum(dim=axes) for one in (found * true, found, true)]))
        dice = (2 * sums[0] + self.smooth_nr) / (sums[1] + sums[2] + self.smooth_dr)
        of_all: Tensor = (1 - dice).mean()
        return of_all
