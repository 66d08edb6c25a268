"""MONAI's ResNet as an encoder: its own modules, unmodified, with the output of each stage."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.resnet import ResNet
from torch import nn

from medmim.encoders.base import Encoder, Map, run_in_sequence
from medmim.errors import UsageError


class ResNetEncoder(Encoder):
    """The stages of a MONAI ResNet without its pooling and classifier head.

    Args:
        block: "basic" or "bottleneck".
        layers: blocks in each of the four stages.
        widths: base channels of each stage; a bottleneck multiplies them by four.
        stem_stride: stride of the first convolution; 1 keeps a fine grid on small images.
        max_pool: whether the stem pools, as on ImageNet; without it the total stride is halved.
        shortcut: B projects where size or channels change; A pools and appends zero channels, as in
            MedicalNet's ResNet-18 and 34, and computes no packed images.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        block: str,
        layers: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_stride: int = 2,
        max_pool: bool = False,
        shortcut: str = "B",
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise UsageError(f"encoder_options.shortcut: expected A or B, got '{shortcut}'")
        net = ResNet(
            block,
            list(layers),
            list(widths),
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_stride=stem_stride,
            no_max_pool=not max_pool,
            shortcut_type=shortcut,
            feed_forward=False,
            # not in place: later stages must not change the returned maps
            act=("relu", {"inplace": False}),
        )
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act, net.maxpool if max_pool else nn.Identity())
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        finest = stem_stride * (2 if max_pool else 1)
        self.in_channels = in_channels
        self.channels = tuple(width * (4 if block == "bottleneck" else 1) for width in widths)
        self.strides = tuple((finest * 2**stage,) * spatial_dims for stage in range(len(widths)))

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map."""
        return [nn.Sequential(self.stem, self.stages[0]), *self.stages[1:]]

    def forward(self, images: Map) -> list[Map]:
        """Return the output of the four stages."""
        return run_in_sequence(self.stages, self.stem(images))
