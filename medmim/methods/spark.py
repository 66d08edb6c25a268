"""SparK: masked modelling for convolutional encoders (Tian et al., ICLR 2023, arXiv 2301.03580).

The encoder sees visible cells only, at every scale. Its maps are densified with mask tokens, and a light
hierarchical decoder predicts the hidden cells, by default their pixels normalised per cell. The loss is the
mean squared error on hidden cells. Visible cells are packed, so that hidden ones are not computed; `masked`
computes the dense network and multiplies by the mask, as the official code does, with equal results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medmim.encoders import Encoder, Masked, Packed, TokenEncoder
from medmim.encoders.convnext import ChannelNorm, ConvNeXtEncoder
from medmim.errors import UsageError, did_you_mean
from medmim.masks import hidden_voxels
from medmim.methods.base import Method, Step, require_grid
from medmim.methods.reconstruction import Choice, PredictionHead, build_target, reconstruction_step
from medmim.methods.targets import Target
from medmim.methods.visible_encoding import HIDE, Compute
from medmim.shapes import Features, Hidden, Images, Size, require_whole_cells


class Densify(nn.Module):
    """Fill hidden voxels of an encoder map with a mask token and project it to the decoder's width.

    As in SparK: norm over the visible voxels, mask token (truncated normal, std 0.02, cut at ±0.02),
        convolution.

    Args:
        kernel_size: 1 at the coarsest scale, 3 elsewhere; None: no convolution, for equal widths.
        norm: batch, or layer over the channels of each voxel, as SparK's code has it for ConvNeXt.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | None,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        batch = norm == "batch"
        self.norm = Norm[Norm.BATCH, spatial_dims](in_channels) if batch else ChannelNorm(in_channels)
        self.token = nn.Parameter(torch.zeros(1, in_channels, *[1] * spatial_dims))
        nn.init.trunc_normal_(self.token, std=0.02, a=-0.02, b=0.02)
        conv = Conv[Conv.CONV, spatial_dims]
        self.project = (
            nn.Identity()
            if kernel_size is None
            else conv(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        )

    def forward(self, features: Masked | Packed, hidden: Hidden) -> Features:
        """Return the dense, projected map."""
        dense: Tensor = self.norm(features).unpack()
        where = hidden_voxels(hidden, tuple(dense.shape[2:]))
        filled: Tensor = self.project(torch.where(where, self.token.to(dense.dtype), dense))
        return filled


def densified(maps: Sequence[Masked | Packed], layers: Iterable[nn.Module], hidden: Hidden) -> list[Features]:
    """Return the densified maps, coarse to fine, one per `Densify`; further maps are not used."""
    return [densify(features, hidden) for densify, features in zip(layers, maps, strict=False)]


class LightDecoder(nn.Module):
    """Upsample from the coarsest map, adding one densified map per scale, and predict values at the end.

    The last scale predicts full resolution with a 1×1 convolution and pixel shuffle, which avoids the
    convolutions at full resolution that dominate the cost of a dense decoder.

    Args:
        strides: total stride at each scale, coarse to fine.
        out_stride: stride of the predictions in voxels; None: 1.
        official: use SparK's overlapping transposed convolutions (kernel 4, stride 2) and initial weights;
            otherwise kernel = stride, which costs a quarter in 2D.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        strides: Sequence[Size],
        widths: Sequence[int],
        out_channels: int,
        out_stride: Size | None = None,
        official: bool = False,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            _Upsample(
                spatial_dims,
                widths[i],
                widths[i + 1],
                tuple(c // f for c, f in zip(coarse, fine, strict=True)),
                official=official,
            )
            for i, (coarse, fine) in enumerate(pairwise(strides))
        )
        self.head = PredictionHead(
            widths[-1], strides[-1], out_channels=out_channels, out_stride=out_stride or (1,) * spatial_dims
        )
        if official:
            self.apply(_initialise_as_spark)

    def forward(self, maps: Sequence[Features]) -> Features:
        """Return the prediction."""
        x = maps[0]
        for stage, skip in zip_longest(self.stages, maps[1:]):
            x = stage(x) if skip is None else stage(x) + skip
        prediction: Tensor = self.head(x)
        return prediction


class _Upsample(nn.Module):
    """SparK's block: transposed convolution, then two 3×3 convolutions with batch norm and ReLU6 between."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, stride: Size, *, official: bool
    ) -> None:
        super().__init__()
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        # twice an even stride: windows overlap, and the output still has `stride` times the size
        kernel = tuple(2 * step if official and step % 2 == 0 else step for step in stride)
        padding = tuple((k - step) // 2 for k, step in zip(kernel, stride, strict=True))
        self.block = nn.Sequential(
            Conv[Conv.CONVTRANS, spatial_dims](
                in_channels, in_channels, kernel, stride=stride, padding=padding
            ),
            conv(in_channels, in_channels, 3, padding=1, bias=False),
            norm(in_channels),
            nn.ReLU6(),
            conv(in_channels, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
        )

    def forward(self, x: Features) -> Features:
        y: Tensor = self.block(x)
        return y


def _initialise_as_spark(layer: nn.Module) -> None:
    """Initialise a layer as SparK's decoder does; norms need no change."""
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Conv2d | nn.Conv3d):
        nn.init.trunc_normal_(layer.weight, std=0.02)
    else:
        return
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


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
        return reconstruction_step(prediction, self.target, images, hidden)


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
        Densify(spatial_dims, channels, width, kernel_size=_kernel(i, channels, width, official), norm=norm)
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


def _kernel(scale: int, channels: int, width: int, official: bool) -> int | None:
    """Return the kernel of a projection; the official code has none for a coarsest map of its own width."""
    if scale:
        return 3
    return None if official and channels == width else 1


def _require_known(decoder: str, encoder: Encoder) -> None:
    """Check the name of the decoder and the kind of the encoder."""
    if decoder not in _DECODERS:
        raise UsageError(f"method_options: unknown decoder '{decoder}'{did_you_mean(decoder, _DECODERS)}")
    if isinstance(encoder, TokenEncoder):
        raise UsageError(
            "method 'spark' needs a convolutional encoder, which can be masked at every scale: expected "
            "another --encoder, such as dynunet, or --method mae or simmim"
        )
