"""SparK: masked modelling for convolutional encoders (Tian et al., ICLR 2023, arXiv 2301.03580).

The encoder sees visible cells only, at every scale; its maps are densified with mask tokens; a light
hierarchical decoder predicts the pixels of the hidden cells, normalised cell by cell; the loss is the mean
squared error on hidden cells alone.
"""

from __future__ import annotations

import math

from torch import nn

from medmim.encoders import Encoder, mask
from medmim.errors import ShapeError
from medmim.methods.base import Method, Step
from medmim.methods.light_decoder import Densify, LightDecoder
from medmim.methods.targets import NormalisedPixels, from_cells, to_cells
from medmim.shapes import Hidden, Images, Size, grid_of


class SparK(Method):
    """The method from its parts.

    Args:
        encoder: hierarchical encoder.
        densify: one `Densify` for each map that the decoder uses, coarse to fine.
        decoder: from densified maps to voxels.
        target: what the prediction is compared with.
    """

    axes = {"target": "normalised pixels", "architecture": "sparse CNN", "objective": "reconstruction"}  # noqa: RUF012

    def __init__(
        self, encoder: Encoder, densify: nn.ModuleList, decoder: LightDecoder, target: NormalisedPixels
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.densify = densify
        self.decoder = decoder
        self.target = target

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on hidden cells and the reconstruction (visible voxels are the image's own)."""
        grid = grid_of(tuple(images.shape[2:]), self.target.cell)
        if tuple(hidden.shape[1:]) != grid:
            raise ShapeError(
                f"mask grid of {'×'.join(map(str, hidden.shape[1:]))} cells: expected "
                f"{'×'.join(map(str, grid))}, the image divided by the mask cell"
            )
        maps = self.encoder(mask(images, hidden))[::-1]
        dense = [densify(features, hidden) for densify, features in zip(self.densify, maps, strict=False)]
        prediction = to_cells(self.decoder(dense).float(), self.target.cell)
        error = (prediction - self.target(images)).square().mean(dim=-1)
        chosen = hidden.flatten(1)
        loss = error[chosen].mean()
        picture = from_cells(
            to_cells(self.target.picture(prediction.detach(), images), self.target.cell).where(
                chosen.unsqueeze(-1), to_cells(images.float(), self.target.cell)
            ),
            tuple(images.shape[2:]),
            self.target.cell,
        )
        return Step(loss=loss, pictures={"reconstruction": picture})


def build_spark(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    decoder_width: int = 128,
    finest_decoder_stride: int = 2,
) -> SparK:
    """Put SparK together around an encoder.

    Args:
        encoder: hierarchical encoder.
        spatial_dims: 2 or 3.
        cell: mask cell in voxels; a multiple of the encoder's total stride.
        decoder_width: channels at the coarsest scale, halved at each finer one (the paper's is 768).
        finest_decoder_stride: the decoder stops at the finest map with this stride or a larger one, and
            predicts the voxels between from there.

    Raises:
        ShapeError: if a cell is finer than the encoder's coarsest map, which would mix hidden and visible.
    """
    total = encoder.total_stride
    if any(size % stride for size, stride in zip(cell, total, strict=True)):
        nearest = tuple(-(-size // stride) * stride for size, stride in zip(cell, total, strict=True))
        raise ShapeError(
            f"mask cell of {'×'.join(map(str, cell))} voxels: expected a multiple of the encoder's total "
            f"stride {'×'.join(map(str, total))}; use --cell {','.join(map(str, nearest))}"
        )
    if math.prod(cell) * encoder.in_channels < 2:
        raise ShapeError(
            "mask cell of one voxel: expected at least 2 values, since each cell is normalised by its own "
            f"deviation; use --cell {','.join('2' for _ in cell)}"
        )
    scales = [
        (channels, stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        if max(stride) >= finest_decoder_stride or stride == total
    ][::-1]
    widths = [max(decoder_width // 2**i, 8) for i in range(len(scales))]
    densify = nn.ModuleList(
        Densify(spatial_dims, channels, width, kernel_size=1 if i == 0 else 3)
        for i, ((channels, _), width) in enumerate(zip(scales, widths, strict=True))
    )
    decoder = LightDecoder(
        spatial_dims=spatial_dims,
        strides=[stride for _, stride in scales],
        widths=widths,
        out_channels=encoder.in_channels,
    )
    return SparK(encoder, densify, decoder, NormalisedPixels(cell))
