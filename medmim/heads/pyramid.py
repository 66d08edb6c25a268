"""A feature pyramid for encoders whose maps all have one stride, such as ViT."""

from __future__ import annotations

from monai.networks.layers.factories import Conv, Norm
from torch import nn

from medmim.encoders import Encoder
from medmim.shapes import Features, Size

_MIN_CHANNELS = 16


class Pyramid(nn.Module):
    """Feature maps at several strides; the maps of a hierarchical encoder pass through unchanged.

    As in UNETR (Hatamizadeh et al., 2022, arXiv 2103.10504): the deepest map keeps its stride; transposed
    convolutions upsample each shallower map to half the stride and half the channels of the next deeper one.

    Attributes:
        channels: channels of each output map, fine to coarse.
        strides: stride of each output map, fine to coarse.
    """

    def __init__(self, encoder: Encoder, *, spatial_dims: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        self.channels, self.strides = encoder.channels, encoder.strides
        if len(set(encoder.strides)) == len(encoder.strides):
            return
        width, halvings = encoder.channels[-1], [(1,) * spatial_dims]
        stride, strides, widths = encoder.total_stride, [encoder.total_stride], [width]
        while len(strides) < len(encoder.strides) and any(step % 2 == 0 for step in stride):
            halvings.append(tuple(2 if step % 2 == 0 else 1 for step in stride))
            stride = tuple(step // half for step, half in zip(stride, halvings[-1], strict=True))
            strides.append(stride)
            widths.append(max(widths[-1] // 2, _MIN_CHANNELS))
        self.levels = nn.ModuleList(
            _upsampling(width, narrow, halvings[1 : number + 1]) for number, narrow in enumerate(widths)
        )
        self.channels, self.strides = tuple(widths[::-1]), tuple(strides[::-1])

    def forward(self, maps: list[Features]) -> list[Features]:
        """Return the pyramid of an encoder's maps; both are ordered fine to coarse."""
        if not self.levels:
            return maps
        coarse_first = [level(features) for level, features in zip(self.levels, maps[::-1], strict=False)]
        return coarse_first[::-1]


def _upsampling(width: int, narrow: int, halvings: list[Size]) -> nn.Sequential:
    """Return one transposed convolution for each halving of the stride; the first reduces the channels."""
    layers: list[nn.Module] = []
    for number, half in enumerate(halvings):
        convolution = Conv[Conv.CONVTRANS, len(half)]
        layers += [
            convolution(narrow if number else width, narrow, kernel_size=half, stride=half),
            Norm[Norm.INSTANCE, len(half)](narrow, affine=True),
            nn.GELU(),
        ]
    return nn.Sequential(*layers)
