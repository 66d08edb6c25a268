"""SimMIM: a simple framework for masked image modelling (Xie et al., CVPR 2022, arXiv 2111.09886).

Hidden patches are replaced by a learned token and go through the encoder with the visible ones; a linear head
(1×1 convolution and pixel shuffle) predicts the hidden cells, by default their raw pixels; the loss is the
mean absolute error on hidden cells alone.
"""

from __future__ import annotations

import torch
from torch import nn

from medmim.encoders import Encoder, TokenEncoder
from medmim.methods.base import Method, Step, require_grid, require_whole_cells
from medmim.methods.options import Choice
from medmim.methods.prediction_layer import Predict
from medmim.methods.reconstruction import build_target, reconstruct
from medmim.methods.targets.pixels import Target
from medmim.methods.visible_encoding import hidden_patches, require_patches
from medmim.shapes import Hidden, Images, Size


class SimMIM(Method):
    """The method from its parts.

    Args:
        encoder: that begins with patches.
        predict: from the coarsest map to the target's values.
        target: what the prediction is compared with, mask cell by mask cell.
    """

    encoder: TokenEncoder

    def __init__(self, encoder: TokenEncoder, predict: Predict, target: Target) -> None:
        super().__init__()
        self.encoder = encoder
        self.token = nn.Parameter(torch.zeros(1, encoder.width, *[1] * len(encoder.patch)))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.predict = predict
        self.target = target
        self.axes = {
            "target": target.name,
            "architecture": "transformer with mask tokens",
            "objective": "reconstruction",
        }

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on hidden cells and the reconstruction (visible voxels are the image's own)."""
        require_grid(images, hidden, self.target.cell)
        patches = self.encoder.embed(images)
        covered = hidden_patches(hidden, tuple(patches.shape[2:])).unsqueeze(1)
        maps = self.encoder.encode(torch.where(covered, self.token.to(patches.dtype), patches))
        whole = tuple(n // step for n, step in zip(images.shape[2:], self.target.stride, strict=True))
        # a coarse map that no whole image fits is padded at its end
        prediction = self.predict(maps[-1])[(..., *map(slice, whole))]
        return reconstruct(prediction, self.target, images, hidden, error="absolute")

    def after_step(self, progress: float) -> None:
        """Let the target follow the encoder."""
        self.target.follow(self.encoder, progress=progress)


def build_simmim(*, encoder: Encoder, spatial_dims: int, cell: Size, target: Choice = "raw") -> SimMIM:
    """Put SimMIM together around an encoder.

    Args:
        encoder: that begins with patches.
        spatial_dims: 2 or 3.
        cell: mask cell in voxels; a multiple of the patch.
        target: raw, normalised, hog or ema, or one of them with its own settings.

    Raises:
        UsageError: for an encoder of another kind, or an unknown target.
        ShapeError: for a cell that is no multiple of the patch.
    """
    begun = require_patches(encoder, method="simmim")
    require_whole_cells(cell, begun.patch, of="the encoder's patch")
    compared = build_target(target, cell=cell, encoder=begun)
    predict = Predict(
        begun.channels[-1],
        begun.total_stride,
        out_channels=compared.channels(begun.in_channels),
        out_stride=compared.stride,
    )
    return SimMIM(begun, predict, compared)
