"""MaskAnyNet: masked regions are reused by a second branch (arXiv 2511.12480).

The primary branch sees the masked image. The hidden cells are stitched together to a reuse image, the input
of an auxiliary branch; both are fused at one level of the encoder (`TwoBranchEncoder`). The paper trains with
labels (`supervised`: classify the image or segment it); without labels, `reassembly` reconstructs the hidden
cells from the masked image and the stitched cells, whose positions are lost. Only the encoder is kept after
pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import UsageError, did_you_mean, refuse_unknown_options
from medmim.masks import hidden_voxels
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.dice_loss import batch_dice
from medmim.methods.reconstruction import Choice, build_target, reconstruction_step
from medmim.methods.spark import LightDecoder
from medmim.methods.targets import Target
from medmim.methods.two_branch_encoder import FusionConfig, TwoBranchEncoder, stitch, stitch_visible
from medmim.shapes import Features, Hidden, Images, Size

Kind = Literal["target", "label"]
_WIDTH = {2: 128, 3: 32}


@dataclass(frozen=True)
class Supervision:
    """Kind and number of a dataset's labels.

    Attributes:
        kind: target (one class per image) or label (one class per voxel).
        classes: number of classes; with `label`, including background.
    """

    kind: Kind
    classes: int


class ReconstructionObjective(nn.Module):
    """Reconstruct the hidden cells; the loss is the mean squared error on them."""

    kind: Kind | None = None

    def __init__(self, decode: Decode, target: Target) -> None:
        super().__init__()
        self.decode = decode
        self.target = target

    def forward(self, maps: Sequence[Features], images: Images, hidden: Hidden, truth: Tensor | None) -> Step:
        """Return the loss and the reconstruction."""
        return reconstruction_step(self.decode(maps), self.target, images, hidden)


class ImageClassification(nn.Module):
    """Predict the class of the image from the mean of the coarsest map; the loss is the cross entropy."""

    kind: Kind = "target"

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(channels, classes)

    def forward(self, maps: Sequence[Features], images: Images, hidden: Hidden, truth: Tensor | None) -> Step:
        """Return the loss and the accuracy."""
        assert truth is not None  # given to every method with a label_kind
        scores = self.score(maps[-1].flatten(2).mean(dim=-1)).float()
        found = (scores.argmax(dim=1) == truth).float().mean()
        return Step(loss=F.cross_entropy(scores, truth), parts={"accuracy": found})


class VoxelClassification(nn.Module):
    """Predict the label of each voxel; the loss is Dice plus cross entropy."""

    kind: Kind = "label"

    def __init__(self, decode: Decode) -> None:
        super().__init__()
        self.decode = decode
        self.compare = batch_dice("dice_ce")

    def forward(self, maps: Sequence[Features], images: Images, hidden: Hidden, truth: Tensor | None) -> Step:
        """Return the loss."""
        return Step(loss=self.compare(self.decode(maps).float(), truth))


class Decode(nn.Module):
    """The light decoder on dense maps, each of which is normalised and projected first.

    Args:
        encoder: encoder whose maps are decoded, except those finer than stride 2.
        out_stride: stride of the predictions in voxels; None: 1.
    """

    def __init__(
        self, encoder: Encoder, *, spatial_dims: int, out_channels: int, out_stride: Size | None = None
    ) -> None:
        super().__init__()
        scales = [
            (channels, stride)
            for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
            if max(stride) >= 2 or stride == encoder.total_stride
        ][::-1]
        widths = [max(_WIDTH[spatial_dims] // 2**i, 8) for i in range(len(scales))]
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        self.project = nn.ModuleList(
            nn.Sequential(norm(channels), conv(channels, width, 1))
            for (channels, _), width in zip(scales, widths, strict=True)
        )
        self.decoder = LightDecoder(
            spatial_dims=spatial_dims,
            strides=[stride for _, stride in scales],
            widths=widths,
            out_channels=out_channels,
            out_stride=out_stride,
        )

    def forward(self, maps: Sequence[Features]) -> Features:
        """Return the prediction, (batch, out_channels, *space / out_stride)."""
        pairs = zip(self.project, maps[::-1], strict=False)
        prediction: Tensor = self.decoder([project(features) for project, features in pairs])
        return prediction


Objective = ReconstructionObjective | ImageClassification | VoxelClassification


OBJECTIVES = ("reassembly", "supervised")


class MaskAnyNet(Method):
    """The method from its parts."""

    def __init__(
        self,
        encoder: Encoder,
        blend: TwoBranchEncoder,
        goal: Objective,
        *,
        cell: Size,
        reuse: bool,
        axes: dict[str, str],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.blend = blend
        self.goal = goal
        self.cell = cell
        self.sees_hidden_content = reuse
        self.reconstructs = isinstance(goal, ReconstructionObjective)
        self.label_kind = goal.kind
        self.axes = axes

    def forward(self, images: Images, hidden: Hidden, truth: Tensor | None = None) -> Step:
        """Compute the loss of one batch; `truth` are the labels of `label_kind`."""
        require_grid(images, hidden, self.cell)
        masked = images.masked_fill(hidden_voxels(hidden, tuple(images.shape[2:])), 0)
        pieces = stitch if self.sees_hidden_content else stitch_visible
        maps = self.blend(self.encoder, masked, pieces(images, hidden, self.cell))
        step: Step = self.goal(maps, images, hidden, truth)
        return step

    def on_step_end(self, progress: float) -> None:
        """Update a target made of averaged features."""
        if isinstance(self.goal, ReconstructionObjective):
            self.goal.target.update_ema(self.encoder, progress=progress)


def build_mask_any_net(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    objective: str = "reassembly",
    fusion: Mapping[str, Any] | None = None,
    reuse: bool = True,
    target: Choice = "normalised",
    supervision: Supervision | None = None,
) -> MaskAnyNet:
    """Build MaskAnyNet around an encoder.

    Args:
        objective: reassembly (no labels), or supervised (the dataset's class targets, or its label volumes).
        fusion: fields of `FusionConfig`, as in {level: mid, operation: add}.
        reuse: False for the control of equal cost, whose auxiliary branch sees visible cells.
        target: target of reassembly: raw, normalised, hog or ema, alone or with its options.
        supervision: kind and number of the labels, for `supervised`.
    """
    goal = _goal(objective, encoder, spatial_dims, cell, target=target, supervision=supervision)
    options = fusion or {}
    refuse_unknown_options("method_options: fusion", options, {field.name for field in fields(FusionConfig)})
    how = FusionConfig(**options)
    blend = TwoBranchEncoder(encoder, spatial_dims=spatial_dims, how=how)
    axes = {
        "target": goal.target.name if isinstance(goal, ReconstructionObjective) else _LABELS[goal.kind],
        "architecture": f"two branches, {how.level} fusion",
        "objective": "supervised" if goal.kind else "reconstruction",
    }
    return MaskAnyNet(encoder, blend, goal, cell=cell, reuse=reuse, axes=axes)


_LABELS: dict[Kind, str] = {"target": "class of the image", "label": "label of the voxel"}


def _goal(
    objective: str,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    *,
    target: Choice,
    supervision: Supervision | None,
) -> Objective:
    if objective not in OBJECTIVES:
        raise UsageError(
            f"method_options: unknown objective '{objective}'{did_you_mean(objective, OBJECTIVES)}"
        )
    if objective == "reassembly":
        compared = build_target(target, cell=cell, encoder=encoder)
        channels = compared.channels(encoder.in_channels)
        decode = Decode(encoder, spatial_dims=spatial_dims, out_channels=channels, out_stride=compared.stride)
        return ReconstructionObjective(decode, compared)
    if supervision is None:
        raise UsageError(
            "method_options: objective 'supervised' needs class targets or label volumes in the training "
            "split, and this dataset has none; use objective reassembly"
        )
    if supervision.kind == "target":
        return ImageClassification(encoder.channels[-1], supervision.classes)
    return VoxelClassification(Decode(encoder, spatial_dims=spatial_dims, out_channels=supervision.classes))
