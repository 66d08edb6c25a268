"""SparK: masked modelling for convolutional encoders (Tian et al., ICLR 2023, arXiv 2301.03580).

The encoder sees visible cells only, at every scale; its maps are densified with mask tokens; a light
hierarchical decoder predicts the pixels of the hidden cells, normalised cell by cell; the loss is the mean
squared error on hidden cells alone. Visible cells are packed, so that hidden ones cost nothing; `masked`
computes the dense network and multiplies by the mask, as the official code does, with equal results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from medmim.encoders import Encoder, Masked, Packed, mask, pack
from medmim.errors import ShapeError, UsageError, did_you_mean
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.light_decoder import Densify, LightDecoder
from medmim.methods.targets import NormalisedPixels, from_cells, to_cells
from medmim.shapes import Hidden, Images, Size

Compute = Literal["packed", "masked"]
_HIDE: dict[str, Callable[[Images, Hidden], Masked | Packed]] = {"packed": pack, "masked": mask}
_DECODERS = ("light", "official")
_LIGHT_WIDTH = {2: 128, 3: 32}  # a step of the decoder then costs less than one of a packed encoder


class SparK(Method):
    """The method from its parts.

    Args:
        encoder: hierarchical encoder.
        densify: one `Densify` for each map that the decoder uses, coarse to fine.
        decoder: from densified maps to voxels.
        target: what the prediction is compared with.
        compute: how the encoder is kept from seeing hidden cells; the results are equal.
    """

    axes = {"target": "normalised pixels", "architecture": "sparse CNN", "objective": "reconstruction"}  # noqa: RUF012

    def __init__(
        self,
        encoder: Encoder,
        densify: nn.ModuleList,
        decoder: LightDecoder,
        target: NormalisedPixels,
        *,
        compute: Compute = "packed",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.densify = densify
        self.decoder = decoder
        self.target = target
        self.compute = compute

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on hidden cells and the reconstruction (visible voxels are the image's own)."""
        require_grid(images, hidden, self.target.cell)
        maps = self.encoder(_HIDE[self.compute](images, hidden))[::-1]
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
    compute: Compute = "packed",
    decoder: str = "light",
    decoder_width: int | None = None,
    finest_decoder_stride: int = 2,
) -> SparK:
    """Put SparK together around an encoder.

    Args:
        encoder: hierarchical encoder.
        spatial_dims: 2 or 3.
        cell: mask cell in voxels; a multiple of the encoder's total stride.
        compute: packed, or masked for encoders with an operation that has no packed form.
        decoder: light, or official: SparK's own, which upsamples to full resolution, beyond the finest map.
        decoder_width: channels at the coarsest scale, halved at each finer one; None: 128 in 2D, 32 in 3D,
            and the paper's 768 for the official decoder.
        finest_decoder_stride: the light decoder stops at the finest map with this stride or a larger one, and
            predicts the voxels between from there.

    Raises:
        UsageError: for an unknown decoder.
        ShapeError: if a cell is finer than the encoder's coarsest map, which would mix hidden and visible.
    """
    if decoder not in _DECODERS:
        raise UsageError(f"method_options: unknown decoder '{decoder}'{did_you_mean(decoder, _DECODERS)}")
    _require_whole_cells(encoder, cell)
    official = decoder == "official"
    finest = 1 if official else finest_decoder_stride
    scales = [
        (channels, stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
        if max(stride) >= finest or stride == encoder.total_stride
    ][::-1]
    strides = [stride for _, stride in scales]
    while official and max(strides[-1]) > 1:
        strides.append(tuple(1 if step % 2 else step // 2 for step in strides[-1]))
    width = decoder_width or (768 if official else _LIGHT_WIDTH[spatial_dims])
    widths = [max(width // 2**i, 8) for i in range(len(strides))]
    densify = nn.ModuleList(
        Densify(spatial_dims, channels, width, kernel_size=1 if i == 0 else 3)
        for i, ((channels, _), width) in enumerate(zip(scales, widths, strict=False))
    )
    upwards = LightDecoder(
        spatial_dims=spatial_dims,
        strides=strides,
        widths=widths,
        out_channels=encoder.in_channels,
        official=official,
    )
    return SparK(encoder, densify, upwards, NormalisedPixels(cell), compute=compute)


def _require_whole_cells(encoder: Encoder, cell: Size) -> None:
    """Refuse cells that the coarsest map does not hold, and cells of one value, which have no deviation."""
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
