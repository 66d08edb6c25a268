"""Batch Dice with cross entropy or focal loss, computed over the patches of all processes of a step.

The Dice of a few patches differs from that of many, since a class may be missing in one process. Sums over
voxels are reduced over processes before the division, as in nnU-Net (arXiv 1904.08128).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from monai.losses.dice import DiceCELoss, DiceFocalLoss, DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

from medmim.distributed import all_reduce_sum, world_size

CRITERIA: dict[str, type[DiceCELoss | DiceFocalLoss]] = {"dice_ce": DiceCELoss, "dice_focal": DiceFocalLoss}


def batch_dice(
    criterion: str, regions: Bool[Tensor, "regions classes"] | None = None
) -> DiceCELoss | DiceFocalLoss:
    """Return the loss between logits (batch, classes, *space) and class labels (batch, 1, *space).

    The Dice of a region is that of the summed probabilities of its classes. Cross entropy and focal loss are
    those of classes, which exclude each other: a binary cross entropy of each region counts a voxel of the
    background once for each of nested regions (`docs/results/nested_regions.json`).

    Args:
        criterion: dice_ce, or dice_focal for small lesions.
        regions: whether each region contains background and each class; None: the Dice is that of classes.
    """
    # batch Dice, so that one patch without a class does not dominate the gradient
    options = {"to_onehot_y": True, "softmax": True, "include_background": False, "batch": True}
    loss = CRITERIA[criterion](**options)
    loss.dice = (
        _DiceOfAll(**{**options, "to_onehot_y": loss.dice.to_onehot_y})
        if regions is None
        else _DiceOfRegions(regions)
    )
    return loss


class _DiceOfAll(DiceLoss):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's batch Dice over the patches of all processes; unchanged in one process."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - MONAI's name
        if world_size() == 1 or not self.training:
            alone: Tensor = super().forward(input, target)
            return alone
        found, true = input, target
        if self.softmax:
            found, true = input.softmax(dim=1)[:, 1:], _masks(target, input)[:, 1:]
        axes = [0, *range(2, input.dim())]
        sums = all_reduce_sum(torch.stack([one.sum(dim=axes) for one in (found * true, found, true)]))
        dice = (2 * sums[0] + self.smooth_nr) / (sums[1] + sums[2] + self.smooth_dr)
        of_all: Tensor = (1 - dice).mean()
        return of_all


class _DiceOfRegions(nn.Module):
    """Batch Dice of overlapping regions of classes."""

    def __init__(self, regions: Bool[Tensor, "regions classes"]) -> None:
        super().__init__()
        self.regions = regions
        self.dice = _DiceOfAll(batch=True)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002 - MONAI's name
        members = self.regions.to(input)
        found, true = (
            torch.einsum("rc,bc...->br...", members, one)
            for one in (input.softmax(dim=1), _masks(target, input))
        )
        loss: Tensor = self.dice(found, true)
        return loss


def _masks(target: Tensor, scores: Tensor) -> Tensor:
    """Return the mask of each class, from class labels or unchanged."""
    masks: Tensor = (
        target if target.shape[1] == scores.shape[1] else one_hot(target, num_classes=scores.shape[1])
    )
    return masks
