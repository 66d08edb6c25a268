"""SimMIM: a simple framework for masked image modelling (Xie et al., CVPR 2022, arXiv 2111.09886).

Hidden patches are replaced by a mask token and encoded with the visible ones. A linear head (1×1 convolution
and pixel shuffle) predicts the hidden cells, by default their raw pixels. The loss is the mean absolute error
on hidden cells.
"""

from __future__ import annotations

import torch
from torch import nn

from medmim.encoders import Encoder, TokenEncoder
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.reconstruction import Choice, PredictionHead, build_target, reconstruction_step
from medmim.methods.targets import Target
from medmim.methods.visible_encoding import hidden_patches, require_patches
from medmim.shapes import Hidden, Images, Size, require_whole_cells


class SimMIM(Method):
    """The method from its parts."""

    encoder: TokenEncoder

    def __init__(self, encoder: TokenEncoder, predict: PredictionHead, target: Target) -> None:
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
        """Compute the loss on hidden cells and the reconstruction, whose visible voxels are copied."""
        require_grid(images, hidden, self.target.cell)
        patches = self.encoder.embed(images)
        covered = hidden_patches(hidden, tuple(patches.shape[2:])).unsqueeze(1)
        maps = self.encoder.encode(torch.where(covered, self.token.to(patches.dtype), patches))
        whole = tuple(n // step for n, step in zip(images.shape[2:], self.target.stride, strict=True))
        # crop: coarse maps are padded where the image size is not a multiple of their stride
        prediction = self.predict(maps[-1])[(..., *map(slice, whole))]
        return reconstruction_step(prediction, self.target, images, hidden, error="absolute")


def build_simmim(*, encoder: Encoder, spatial_dims: int, cell: Size, target: Choice = "raw") -> SimMIM:
    """Build SimMIM around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the patch.
        target: raw, normalised, hog or ema, alone or with its options.
    """
    patch_based = require_patches(encoder, TokenEncoder, method="simmim")  # type: ignore[type-abstract]
    require_whole_cells(cell, patch_based.patch, of="the encoder's patch")
    compared = build_target(target, cell=cell, encoder=patch_based)
    width, stride = patch_based.channels[-1], patch_based.total_stride
    predict = PredictionHead.of_target(width, stride, compared, patch_based)
    return SimMIM(patch_based, predict, compared)
