"""MaskAnyNet's objectives: reconstruct hidden cells, classify the image, or segment it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.methods.base import Step
from medmim.methods.dice_loss import batch_dice
from medmim.methods.reconstruction import reconstruct
from medmim.methods.spark_decoder import LightDecoder
from medmim.methods.targets.pixels import Target
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
        return reconstruct(self.decode(maps), self.target, images, hidden)


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
        out_channels: predicted values per position.
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
