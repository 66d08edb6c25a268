"""MaskAnyNet: masked regions are reused by a second branch (arXiv 2511.12480).

The primary branch sees the masked image. The hidden cells are stitched together to a reuse image, the input
of an auxiliary branch; both are fused at one level of the encoder (`TwoBranchEncoder`). The paper trains with
labels (`supervised`); without labels, `reassembly` reconstructs the hidden cells from the masked image and
the stitched cells, whose positions are lost. Only the encoder is kept after pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from medmim.encoders import Encoder
from medmim.errors import UsageError, did_you_mean, refuse_unknown_options
from medmim.masks import hidden_voxels
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.mask_any_net.fusion import FusionConfig, TwoBranchEncoder
from medmim.methods.mask_any_net.objectives import (
    Decode,
    ImageClassification,
    Kind,
    Objective,
    ReconstructionObjective,
    Supervision,
    VoxelClassification,
)
from medmim.methods.mask_any_net.reuse_image import stitch, stitch_visible
from medmim.methods.options import Choice
from medmim.methods.reconstruction import build_target
from medmim.shapes import Hidden, Images, Size

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
