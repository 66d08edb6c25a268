"""SparK: masked modelling for convolutional encoders (Tian et al., ICLR 2023, arXiv 2301.03580).

The encoder sees visible cells only, at every scale. Its maps are densified with mask tokens, and a light
hierarchical decoder predicts the hidden cells, by default their pixels normalised per cell. The loss is the
mean squared error on hidden cells. Visible cells are packed, so that hidden ones are not computed; `masked`
computes the dense network and multiplies by the mask, as the official code does, with equal results.
"""

from __future__ import annotations

from torch import nn

from medmim.encoders import Encoder, TokenEncoder
from medmim.encoders.convnext import ConvNeXtEncoder
from medmim.errors import UsageError, did_you_mean
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.options import Choice
from medmim.methods.reconstruction import build_target, reconstruct
from medmim.methods.spark_decoder import Densify, LightDecoder, densified
from medmim.methods.targets.pixels import Target
from medmim.methods.visible_encoding import HIDE, Compute
from medmim.shapes import Hidden, Images, Size, require_whole_cells

_DECODERS = ("light", "official")
_LIGHT_WIDTH = {2: 128, 3: 32}  # the decoder then costs less than a packed encoder


class SparK(Method):
    """The method from its parts."""

    def __init__(
        self,
        encoder: Encoder,
        densify: nn.ModuleList,
        decoder: LightDecoder,
        target: Target,
        *,
        compute: Compute = "packed",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.densify = densify
        self.decoder = decoder
        self.target = target
        self.compute = compute
        self.axes = {"target": target.name, "architecture": "sparse CNN", "objective": "reconstruction"}

    def forward(self, images: Images, hidden: Hidden) -> Step:
        """Compute the loss on hidden cells and the reconstruction, whose visible voxels are copied."""
        require_grid(images, hidden, self.target.cell)
        maps = self.encoder(HIDE[self.compute](images, hidden))[::-1]
        prediction = self.decoder(densified(maps, self.densify, hidden))
        return reconstruct(prediction, self.target, images, hidden)


def build_spark(
    *,
    encoder: Encoder,
    spatial_dims: int,
    cell: Size,
    compute: Compute = "packed",
    decoder: str = "light",
    decoder_width: int | None = None,
    finest_decoder_stride: int = 2,
    target: Choice = "normalised",
) -> SparK:
    """Build SparK around an encoder.

    Args:
        cell: mask cell in voxels; a multiple of the encoder's total stride.
        compute: packed, or masked for encoders with an operation that has no packed form.
        decoder: light, or official for SparK's own, which upsamples to full resolution, with layer norm
            before densifying for ConvNeXt.
        decoder_width: channels at the coarsest scale, halved at each finer one; None: 128 in 2D, 32 in 3D,
            and the paper's 768 for the official decoder.
        finest_decoder_stride: the light decoder stops at the finest map with at least this stride and
            predicts voxels from there.
        target: raw, normalised, hog or ema, alone or with its options.
    """
    _require_known(decoder, encoder)
    require_whole_cells(cell, encoder.total_stride, of="the encoder's total stride")
    compared = build_target(target, cell=cell, encoder=encoder)
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
    norm = "layer" if official and isinstance(encoder, ConvNeXtEncoder) else "batch"
    densify = nn.ModuleList(
        Densify(spatial_dims, channels, width, kernel_size=1 if i == 0 else 3, norm=norm)
        for i, ((channels, _), width) in enumerate(zip(scales, widths, strict=False))
    )
    upwards = LightDecoder(
        spatial_dims=spatial_dims,
        strides=strides,
        widths=widths,
        out_channels=compared.channels(encoder.in_channels),
        out_stride=compared.stride,
        official=official,
    )
    return SparK(encoder, densify, upwards, compared, compute=compute)


def _require_known(decoder: str, encoder: Encoder) -> None:
    """Check the name of the decoder and the kind of the encoder."""
    if decoder not in _DECODERS:
        raise UsageError(f"method_options: unknown decoder '{decoder}'{did_you_mean(decoder, _DECODERS)}")
    if isinstance(encoder, TokenEncoder):
        raise UsageError(
            "method 'spark' needs a convolutional encoder, which can be masked at every scale: expected "
            "another --encoder, such as dynunet, or --method mae or simmim"
        )
