"""From features at any stride to predicted values at any other: the last layer of every reconstruction."""

from __future__ import annotations

from math import prod

from einops import rearrange
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medmim.errors import ShapeError
from medmim.shapes import Features, Size


class Predict(nn.Module):
    """One linear map: 1×1 and a pixel shuffle towards finer values, a patch-wise convolution towards coarser.

    Args:
        in_channels: of the features.
        stride: image voxels that a voxel of the features stands for, along each axis.
        out_channels: predicted values at each place.
        out_stride: image voxels from one place to the next.

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

    def forward(self, features: Features) -> Features:
        """Return the predicted values, (batch, out_channels, *space / out_stride)."""
        values: Tensor = self.linear(features)
        return values if self.finer is None else _unfold(values, self.finer)


def _ratio(coarse: Size, fine: Size) -> Size | None:
    """Return how many fine steps a coarse one holds along each axis; None where it holds no whole number."""
    if any(c % f for c, f in zip(coarse, fine, strict=True)):
        return None
    return tuple(c // f for c, f in zip(coarse, fine, strict=True))


def _unfold(x: Features, stride: Size) -> Features:
    """Spread channels over the voxels that each map voxel stands for (pixel shuffle, any strides)."""
    if len(stride) == 2:
        return rearrange(x, "b (c sy sx) y x -> b c (y sy) (x sx)", sy=stride[0], sx=stride[1])
    return rearrange(
        x, "b (c sz sy sx) z y x -> b c (z sz) (y sy) (x sx)", sz=stride[0], sy=stride[1], sx=stride[2]
    )
