"""The last layer of every reconstruction: from features at one stride to predicted values at another."""

from __future__ import annotations

from math import prod

from einops import rearrange
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import ShapeError
from medmim.methods.targets.pixels import Target
from medmim.shapes import Features, Size


class PredictionHead(nn.Module):
    """One linear layer: 1×1 convolution and pixel shuffle to finer strides, strided convolution to coarser.

    Args:
        in_channels: channels of the features.
        stride: stride of the features in image voxels.
        out_channels: predicted values per position.
        out_stride: stride of the predictions in image voxels.

    Raises:
        ShapeError: if neither stride is a multiple of the other.
    """

    def __init__(self, in_channels: int, stride: Size, *, out_channels: int, out_stride: Size) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, len(stride)]
        self.finer = _ratio(stride, out_stride)
        coarser = _ratio(out_stride, stride)
        if self.finer is not None:
            self.linear = conv(in_channels, out_channels * prod(self.finer), kernel_size=1)
        elif coarser is not None:
            self.linear = conv(in_channels, out_channels, kernel_size=coarser, stride=coarser)
        else:
            raise ShapeError(
                f"features of stride {'×'.join(map(str, stride))} cannot predict values of stride "
                f"{'×'.join(map(str, out_stride))}: expected one to be a multiple of the other"
            )

    @classmethod
    def of_target(cls, in_channels: int, stride: Size, target: Target, encoder: Encoder) -> PredictionHead:
        """Return the layer that predicts a target of the images of an encoder."""
        out_channels = target.channels(encoder.in_channels)
        return cls(in_channels, stride, out_channels=out_channels, out_stride=target.stride)

    def forward(self, features: Features) -> Features:
        """Return the predicted values, (batch, out_channels, *space / out_stride)."""
        values: Tensor = self.linear(features)
        return values if self.finer is None else _unfold(values, self.finer)


def _ratio(coarse: Size, fine: Size) -> Size | None:
    """Return coarse / fine along each axis; None where it is not an integer."""
    if any(c % f for c, f in zip(coarse, fine, strict=True)):
        return None
    return tuple(c // f for c, f in zip(coarse, fine, strict=True))


def _unfold(x: Features, stride: Size) -> Features:
    """Rearrange channels to voxels (pixel shuffle, with any strides)."""
    if len(stride) == 2:
        return rearrange(x, "b (c sy sx) y x -> b c (y sy) (x sx)", sy=stride[0], sx=stride[1])
    return rearrange(
        x, "b (c sz sy sx) z y x -> b c (z sz) (y sy) (x sx)", sz=stride[0], sy=stride[1], sx=stride[2]
    )
