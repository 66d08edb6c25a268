"""SparK's densify layers and hierarchical decoder, in a light and in the official form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from medmim.encoders import Masked, Packed
from medmim.encoders.convnext import ChannelNorm
from medmim.masks import hidden_voxels
from medmim.methods.prediction_layer import PredictionHead
from medmim.shapes import Features, Hidden, Size


class Densify(nn.Module):
    """Fill hidden voxels of an encoder map with a mask token and project it to the decoder's width.

    As in SparK: norm over the visible voxels, mask token (truncated normal, std 0.02, cut at ±0.02),
        convolution.

    Args:
        in_channels: channels of the encoder's map.
        out_channels: width of the decoder at this scale.
        kernel_size: 1 at the coarsest scale, 3 elsewhere.
        norm: batch, or layer over the channels of each voxel, as SparK's code has it for ConvNeXt.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, kernel_size: int, norm: str = "batch"
    ) -> None:
        super().__init__()
        batch = norm == "batch"
        self.norm = Norm[Norm.BATCH, spatial_dims](in_channels) if batch else ChannelNorm(in_channels)
        self.token = nn.Parameter(torch.zeros(1, in_channels, *[1] * spatial_dims))
        nn.init.trunc_normal_(self.token, std=0.02, a=-0.02, b=0.02)
        self.project = Conv[Conv.CONV, spatial_dims](
            in_channels, out_channels, kernel_size, padding=kernel_size // 2
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
        widths: channels at each of these scales.
        out_channels: predicted values per position.
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
