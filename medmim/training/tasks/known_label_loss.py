"""Dice plus cross entropy or focal loss over what is known: annotated voxels, classes and regions."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from medmim.data.loading.foreground_sampling import IGNORE
from medmim.methods.dice_loss import batch_dice
from medmim.shapes import Features

ANNOTATED = "annotated"  # entry of a sample: whether background and each class were annotated
MEMBERS = "members"  # entry of a sample: whether each region contains background and each class
_IMPOSSIBLE = 1e4  # logit difference that fixes a prediction


class KnownLabelLoss(nn.Module):
    """Loss of logits of classes whose labels are partly unknown, see `batch_dice`.

    `IGNORE` voxels cost nothing. Where a class was not annotated, a voxel labelled background may belong
    to it: its probability is added to that of the background (marginal loss, Shi et al., 2021, arXiv
    2007.03868).

    Args:
        criterion: dice_ce or dice_focal.
        annotated: whether background and each class were annotated in each patch; None: all were.
        regions: whether each overlapping region contains background and each class; None: no regions.
    """

    def __init__(
        self,
        criterion: str,
        annotated: Bool[Tensor, "batch classes"] | None = None,
        regions: Bool[Tensor, "regions classes"] | None = None,
    ) -> None:
        super().__init__()
        self.criterion = batch_dice(criterion, regions)
        self.annotated = annotated

    def forward(self, scores: Features, label: Tensor) -> Tensor:
        """Return the loss of logits (batch, classes, *space) and labels (batch, 1, *space)."""
        if self.annotated is not None:
            unknown = ~self.annotated.reshape(*self.annotated.shape, *[1] * (scores.dim() - 2))
            label = _without_unannotated(label, ~self.annotated)
            scores = _marginal(scores, unknown)
        ignored, weight = label == IGNORE, 1.0
        if ignored.any():
            background = torch.zeros_like(scores[:1])
            background[:, 0] = _IMPOSSIBLE  # a certain background voxel adds nothing to Dice or cross entropy
            scores, label = torch.where(ignored, background, scores), label.masked_fill(ignored, 0)
            known = 1 - ignored.float().mean()
            weight = float(1 / known) if known else 0.0  # the mean is over known voxels
        self.criterion.lambda_ce = self.criterion.lambda_focal = weight
        loss: Tensor = self.criterion(scores, label)
        return loss


def _without_unannotated(label: Tensor, unknown: Bool[Tensor, "batch classes"]) -> Tensor:
    """Return labels in which voxels of classes that were not annotated are `IGNORE`."""
    classes = label.masked_fill(label == IGNORE, 0).flatten(1).long()
    return label.masked_fill(unknown.gather(1, classes).reshape(label.shape), IGNORE)


def _marginal(scores: Features, unknown: Bool[Tensor, "batch classes *ones"]) -> Features:
    """Return logits in which the background includes the classes that were not annotated."""
    # annotated classes, without the background
    own = torch.cat([torch.zeros_like(unknown[:, :1]), ~unknown[:, 1:]], dim=1)
    background = scores.masked_fill(own, -_IMPOSSIBLE).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, scores[:, 1:].masked_fill(unknown[:, 1:], -_IMPOSSIBLE)], dim=1)
