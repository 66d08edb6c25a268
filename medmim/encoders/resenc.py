"""nnU-Net's residual encoder (Isensee et al., MICCAI 2024, arXiv 2404.09556) in 2D and 3D.

Module names, weights and outputs equal those of `ResidualEncoder` of dynamic-network-architectures 0.4, so
that weights move between medmim, nnU-Net and nnssl by a change of the key prefix. Blocks are those of
ResNet-D (He et al., arXiv 1812.01187): strided shortcuts pool before a 1×1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn

from medmim.encoders.base import Encoder, Map, run_in_sequence
from medmim.errors import UsageError, did_you_mean
from medmim.shapes import Size, as_size

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # features and blocks of each stage
    "S": ((16, 32, 64, 128), (1, 2, 3, 4)),
    "M": ((32, 64, 128, 256, 320), (1, 3, 4, 6, 6)),
    "L": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
}
_SLOPE = 0.01  # of the leaky ReLU, also assumed by the initialisation


class ResEncEncoder(Encoder):
    """A stem and stages of residual blocks with instance norm; the first stage is at full resolution.

    Args:
        size: S (for laptops), M, or L (nnU-Net's and nnssl's ResEnc-L).
        features: channels of each stage, fine to coarse; None: those of `size`.
        blocks: residual blocks of each stage; None: those of `size`.
        kernel_sizes: kernel of each stage, one number or one per axis; None: 3.
        strides: stride of each stage relative to the one before, one number or one per axis; None: 1 for the
            first stage and 2 for the others.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        size: str = "S",
        features: Sequence[int] | None = None,
        blocks: Sequence[int] | None = None,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise UsageError(f"encoder_options: unknown size '{size}'{did_you_mean(size, SIZES)}")
        widths, counts = tuple(features or SIZES[size][0]), tuple(blocks or SIZES[size][1])
        kernels, steps = kernel_sizes or [3] * len(widths), strides or [1] + [2] * (len(widths) - 1)
        if not len(widths) == len(counts) == len(kernels) == len(steps) or min(counts) < 1:
            raise UsageError(
                "encoder_options: expected as many blocks, kernel_sizes and strides as features, at least "
                f"one block per stage, got {len(widths)} features, blocks {list(counts)}, {len(kernels)} "
                f"kernel_sizes and {len(steps)} strides"
            )
        sizes = [as_size(each, spatial_dims, what="encoder_options.kernel_sizes") for each in kernels]
        relative = [as_size(each, spatial_dims, what="encoder_options.strides") for each in steps]
        one = (1,) * spatial_dims
        self.stem = ConvSequence([ConvNorm(in_channels, widths[0], sizes[0], one)])
        entering = pairwise([widths[0], *widths])
        self.stages = nn.Sequential(
            *(
                _ResidualStage(before, width, kernel, stride, count)
                for (before, width), kernel, stride, count in zip(
                    entering, sizes, relative, counts, strict=True
                )
            )
        )
        self.in_channels = in_channels
        self.channels = widths
        self.strides = tuple(tuple(int(s) for s in row) for row in np.cumprod(relative, axis=0))
        self.apply(initialise)

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map."""
        return [nn.Sequential(self.stem, self.stages[0]), *list(self.stages)[1:]]

    def forward(self, images: Map) -> list[Map]:
        """Return the output of every stage."""
        return run_in_sequence(self.stages, self.stem(images))


class ConvNorm(nn.Module):
    """Convolution, instance norm, leaky ReLU; `all_modules` registers them twice, as in nnU-Net's files."""

    def __init__(
        self, before: int, width: int, kernel: Size, stride: Size, *, bias: bool = True, act: bool = True
    ) -> None:
        super().__init__()
        dims, padding = len(kernel), tuple((side - 1) // 2 for side in kernel)
        self.conv = Conv[Conv.CONV, dims](before, width, kernel, stride=stride, padding=padding, bias=bias)
        self.norm = Norm[Norm.INSTANCE, dims](width, affine=True)
        modules: list[nn.Module] = [self.conv, self.norm]
        if act:
            self.nonlin = nn.LeakyReLU(_SLOPE)
            modules.append(self.nonlin)
        self.all_modules = nn.Sequential(*modules)

    def forward(self, x: Any) -> Any:
        """Return the convolved, normalised and, with `act`, activated map."""
        return self.all_modules(x)


class ConvSequence(nn.Module):
    """A sequence of convolutions named `convs`."""

    def __init__(self, convs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)

    def forward(self, x: Any) -> Any:
        """Return the output of the last convolution."""
        return self.convs(x)


class _ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, which pools and projects where size or channels change."""

    def __init__(self, before: int, width: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        dims = len(kernel)
        one = (1,) * dims
        self.conv1 = ConvNorm(before, width, kernel, stride)
        self.conv2 = ConvNorm(width, width, kernel, one, act=False)
        self.nonlin2 = nn.LeakyReLU(_SLOPE)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            shortcut.append(Pool[Pool.AVG, dims](stride, stride))
        if before != width:
            shortcut.append(ConvNorm(before, width, one, one, bias=False, act=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Any) -> Any:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))


class _ResidualStage(nn.Module):
    """Residual blocks, of which the first has the stride."""

    def __init__(self, before: int, width: int, kernel: Size, stride: Size, count: int) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        rest = [_ResidualBlock(width, width, kernel, one) for _ in range(count - 1)]
        self.blocks = nn.Sequential(_ResidualBlock(before, width, kernel, stride), *rest)

    def forward(self, x: Any) -> Any:
        return self.blocks(x)


def initialise(module: nn.Module) -> None:
    """Initialise as nnU-Net: He-normal convolutions, zero biases; the last norm of each block starts at 0."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, _ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)
