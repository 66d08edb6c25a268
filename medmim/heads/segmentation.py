"""Segmentation: the encoder's maps, from coarse to fine, through MONAI's U-Net blocks to class scores."""

from __future__ import annotations

from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.heads.pyramid import Pyramid
from medmim.shapes import Features, Images, Size

_NORM = ("instance", {"affine": True})


class Segmenter(nn.Module):
    """An encoder and a U-Net decoder over all of its maps, or over a pyramid of maps of one stride.

    Args:
        encoder: whose maps are decoded.
        spatial_dims: 2 or 3.
        classes: classes, background included.
    """

    def __init__(self, *, encoder: Encoder, spatial_dims: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pyramid = Pyramid(encoder, spatial_dims=spatial_dims)
        channels, strides = self.pyramid.channels[::-1], self.pyramid.strides[::-1]
        self.up = nn.ModuleList(
            UnetUpBlock(
                spatial_dims,
                channels[i],
                channels[i + 1],
                kernel_size=3,
                stride=1,
                upsample_kernel_size=_ratio(strides[i], strides[i + 1]),
                norm_name=_NORM,
            )
            for i in range(len(channels) - 1)
        )
        self.finish = _Finish(spatial_dims, channels[-1], strides[-1])
        self.score = Conv[Conv.CONV, spatial_dims](channels[-1], classes, kernel_size=1)

    def forward(self, images: Images) -> Features:
        """Return class scores, (batch, classes, *space)."""
        maps = self.pyramid(self.encoder(images))
        x = maps[-1]
        for block, skip in zip(self.up, maps[-2::-1], strict=True):
            x = block(x, skip)
        scores: Tensor = self.score(self.finish(x))
        return scores


class _Finish(nn.Module):
    """Bring the finest map to full resolution; nothing where it is there already."""

    def __init__(self, spatial_dims: int, channels: int, stride: Size) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        if max(stride) > 1:
            self.steps.append(
                Conv[Conv.CONVTRANS, spatial_dims](channels, channels, kernel_size=stride, stride=stride)
            )
            self.steps.append(
                UnetBasicBlock(spatial_dims, channels, channels, kernel_size=3, stride=1, norm_name=_NORM)
            )

    def forward(self, x: Features) -> Features:
        for step in self.steps:
            x = step(x)
        return x


def _ratio(coarse: Size, fine: Size) -> Size:
    return tuple(c // f for c, f in zip(coarse, fine, strict=True))
