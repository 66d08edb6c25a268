"""A ConvNeXt encoder (Liu et al., CVPR 2022, arXiv 2201.03545) in 2D and 3D.

In 3D the kernel is smaller, as in MedNeXt (Roy et al., MICCAI 2023, arXiv 2303.09975).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.layers.drop_path import DropPath
from monai.networks.layers.factories import Conv
from torch import nn

from medmim.encoders.base import Encoder, Map, run_in_sequence
from medmim.encoders.masked import Masked
from medmim.errors import UsageError

_KERNEL = {2: 7, 3: 5}


class ConvNeXtEncoder(Encoder):
    """Stages of ConvNeXt blocks; every stage begins with a non-overlapping strided convolution.

    Args:
        widths: channels of each stage, fine to coarse.
        stem_stride: stride of the first convolution; every further stage halves the map.
        kernel_size: kernel of the depth-wise convolutions, odd; None: 7 in 2D, 5 in 3D.
        expansion: ratio of a block's inner channels to its width.
        drop_path: stochastic depth rate of the last block; it grows linearly from 0 over the blocks.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (2, 2, 6, 2),
        stem_stride: int = 2,
        kernel_size: int | None = None,
        expansion: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        kernel = kernel_size or _KERNEL[spatial_dims]
        if not widths or len(widths) != len(blocks) or kernel % 2 == 0:
            raise UsageError(
                f"encoder_options: expected as many blocks as widths and an odd kernel, got {len(widths)} "
                f"widths, {len(blocks)} blocks and kernel {kernel}"
            )
        conv = Conv[Conv.CONV, spatial_dims]
        chances = iter(torch.linspace(0, drop_path, sum(blocks)).tolist())
        stem = nn.Sequential(
            conv(in_channels, widths[0], stem_stride, stride=stem_stride), ChannelNorm(widths[0])
        )
        halvings = [
            nn.Sequential(ChannelNorm(fine), conv(fine, coarse, 2, stride=2))
            for fine, coarse in pairwise(widths)
        ]
        self.stages = nn.ModuleList(
            nn.Sequential(
                first, *(_Block(spatial_dims, width, kernel, expansion, next(chances)) for _ in range(count))
            )
            for first, width, count in zip([stem, *halvings], widths, blocks, strict=True)
        )
        self.in_channels = in_channels
        self.channels = tuple(widths)
        self.strides = tuple((stem_stride * 2**stage,) * spatial_dims for stage in range(len(widths)))

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map."""
        return list(self.stages)

    def forward(self, images: Map) -> list[Map]:
        """Return the output of every stage."""
        return run_in_sequence(self.stages, images)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel, for maps with channels at axis 1."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """Return the normalised map: a tensor, `Masked` or `Packed`, as the input."""
        if isinstance(x, Masked):
            dense = self(x.dense)  # the bias shifts hidden voxels, which are zeroed again
            return Masked(dense * x.visible.to(dense.dtype), x.layout)
        normed = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.movedim(-1, 1)


class _Block(nn.Module):
    """A residual block: depth-wise convolution, norm, inverted bottleneck with GELU, layer scale."""

    def __init__(self, spatial_dims: int, width: int, kernel: int, expansion: int, drop_path: float) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.depthwise = conv(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = ChannelNorm(width)
        self.widen = conv(width, expansion * width, 1)
        self.act = nn.GELU()
        self.narrow = conv(expansion * width, width, 1)
        # initial layer scale of ConvNeXt
        self.scale = nn.Parameter(torch.full((width, *[1] * spatial_dims), 1e-6))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Any) -> Any:
        y = self.narrow(self.act(self.widen(self.norm(self.depthwise(x)))))
        return x + self.drop_path(self.scale * y)
