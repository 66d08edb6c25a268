"""Dense masked autoencoder: a U-Net restores hidden cells of the image it is given.

The method that nnssl found strongest for segmentation (Wald et al., 2024, arXiv 2410.23132): hidden cells are
set to zero, encoder and U-Net decoder compute the whole image, and the loss is the mean squared error on
hidden cells. The decoder is that of the segmentation task, so that fine-tuning can start from both. Since
convolutions see zeros next to visible voxels, and cost does not fall with the ratio, SparK is the sparse form
of the same idea.
"""

from __future__ import annotations

from torch import nn

from medmim.encoders import Encoder
from medmim.heads.segmentation import UNetDecoder
from medmim.masks import hidden_voxels
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.reconstruction import Choice, PredictionHead, build_target, reconstruction_step
from medmim.methods.targets import Target
from medmim.shapes import Hidden, Images, Size, require_whole_cells


class DenseMAE(Method):
    """The method from its parts."""

    def __init__(self, encoder: Encoder, decoder: UNetDecoder, predict: nn.Module, target: Target) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.predict = predict
        self.target = target
        self.axes = {"target": target.name, "architecture": "dense U-Net", "objective": "reconstruction"}

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on hidden cells and the reconstruction, whose visible voxels are copied."""
        require_grid(images, hidden, self.target.cell)
        visible = images.masked_fill(hidden_voxels(hidden, tuple(images.shape[2:])), 0)
        prediction = self.predict(self.decoder.features(self.encoder(visible)))
        return reconstruction_step(prediction, self.target, images, hidden)


def build_dense_mae(*, encoder: Encoder, spatial_dims: int, cell: Size, target: Choice = "raw") -> DenseMAE:
    """Build a dense masked autoencoder around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the encoder's total stride.
        target: raw, normalised, hog or ema, alone or with its options.
    """
    require_whole_cells(cell, encoder.total_stride, of="the encoder's total stride")
    compared = build_target(target, cell=cell, encoder=encoder)
    decoder = UNetDecoder(encoder=encoder, spatial_dims=spatial_dims)
    predict = PredictionHead.of_target(decoder.channels, (1,) * spatial_dims, compared, encoder)
    return DenseMAE(encoder, decoder, predict, compared)
