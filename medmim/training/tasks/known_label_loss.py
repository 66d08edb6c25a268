"""Dice plus cross entropy or focal loss over what is known: annotated voxels, classes and regions."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from medmim.data.loading.foreground_sampling import IGNORE
from medmim.methods.dice_loss import batch_dice, region_dice
from medmim.shapes import Features

ANNOTATED = "annotated"  # entry of a sample: whether background and each class were annotated
MEMBERS = "members"  # entry of a sample: whether each region contains background and each class
_IMPOSSIBLE = 1e4  # logit difference that fixes a prediction


class KnownLabelLoss(nn.Module):
    """Loss of logits whose labels are partly unknown.

    `IGNORE` voxels cost nothing. Where a class was not annotated, a voxel labelled background may belong
    to it: its probability is added to that of the background (marginal loss, Shi et al., 2021, arXiv
    2007.03868).

    Args:
        criterion: dice_ce or dice_focal.
        annotated: whether background and each class were annotated in each patch; None: all were.
    """

    def __init__(self, criterion: str, annotated: Bool[Tensor, "batch classes"] | None = None) -> None:
        super().__init__()
        self.criterion = batch_dice(criterion)
        self.annotated = annotated

    def forward(self, scores: Features, label: Tensor) -> Tensor:
        """Return the loss of logits (batch, classes, *space) and labels (batch, 1, *space)."""
        if self.annotated is not None:
            unknown = ~self.annotated.reshape(*self.annotated.shape, *[1] * (scores.dim() - 2))
            label = _without_unannotated(label, ~self.annotated)
            scores = _marginal(scores, unknown)
        ignored = label == IGNORE
        if ignored.any():
            background = torch.zeros_like(scores[:1])
            background[:, 0] = _IMPOSSIBLE  # a certain background voxel adds nothing to Dice or cross entropy
            scores, label = torch.where(ignored, background, scores), label.masked_fill(ignored, 0)
            known = 1 - ignored.float().mean()
            weight = float(1 / known) if known else 0.0
            self.criterion.lambda_ce = self.criterion.lambda_focal = weight  # the mean is over known voxels
        loss: Tensor = self.criterion(scores, label)
        return loss


class KnownRegionLoss(nn.Module):
    """Loss of the logits of overlapping regions whose labels are partly unknown.

    `IGNORE` voxels cost nothing. Where a class was not annotated, a voxel labelled background costs nothing
    in the regions of that class.

    Args:
        criterion: dice_ce, with binary cross entropy, or dice_focal.
        members: whether each region contains background and each class.
        annotated: whether background and each class were annotated in each patch; None: all were.
    """

    def __init__(
        self,
        criterion: str,
        members: Bool[Tensor, "regions classes"],
        annotated: Bool[Tensor, "batch classes"] | None = None,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self.members = members
        self.annotated = annotated

    def forward(self, scores: Features, label: Tensor) -> Tensor:
        """Return the loss of logits (batch, regions, *space) and labels (batch, 1, *space)."""
        label = label if self.annotated is None else _without_unannotated(label, ~self.annotated)
        ignored = (label == IGNORE).expand_as(scores)
        classes = label.masked_fill(label == IGNORE, 0).long()
        if self.annotated is not None:
            incomplete = (~self.annotated[:, None] & self.members).any(dim=2)
            shape = (*incomplete.shape, *[1] * (scores.dim() - 2))
            ignored = ignored | (incomplete.reshape(shape) & (classes == 0))
        target = self.members.to(scores)[:, classes[:, 0]].movedim(0, 1)
        known = 1 - ignored.float().mean()
        # a region that is surely and rightly absent adds nothing to Dice or cross entropy
        scores, target = scores.masked_fill(ignored, -_IMPOSSIBLE), target.masked_fill(ignored, 0)
        return region_dice(self.criterion, scores, target, float(1 / known) if known else 0.0)


def _without_unannotated(label: Tensor, unknown: Bool[Tensor, "batch classes"]) -> Tensor:
    """Return labels in which voxels of classes that were not annotated are `IGNORE`."""
    classes = label.masked_fill(label == IGNORE, 0).flatten(1).long()
    return label.masked_fill(unknown.gather(1, classes).reshape(label.shape), IGNORE)


def _marginal(scores: Features, unknown: Bool[Tensor, "batch classes *ones"]) -> Features:
    """Return logits in which the background includes the classes that were not annotated."""
    own = torch.cat(
        [torch.zeros_like(unknown[:, :1]), ~unknown[:, 1:]], dim=1
    )  # classes other than background
    background = scores.masked_fill(own, -_IMPOSSIBLE).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, scores[:, 1:].masked_fill(unknown[:, 1:], -_IMPOSSIBLE)], dim=1)
