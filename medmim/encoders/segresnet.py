"""The encoder of MONAI's SegResNet (pre-activation blocks with group norm): its own modules, unmodified."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.segresnet import SegResNet
from torch import nn

from medmim.encoders.base import Encoder, Map, run_in_sequence
from medmim.errors import UsageError


class SegResNetEncoder(Encoder):
    """The encoder half of a MONAI SegResNet: the first level at full resolution, each further one halved.

    Args:
        width: channels of the finest map, doubled at each coarser one.
        blocks: residual blocks of each level, fine to coarse.
        groups: groups of the group norms; must divide `width`.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        width: int = 16,
        blocks: Sequence[int] = (1, 2, 2, 4),
        groups: int = 8,
    ) -> None:
        super().__init__()
        if width % groups or not blocks:
            raise UsageError(
                f"encoder_options: expected a width that divides into {groups} groups and at least one "
                f"level, got width {width} and {len(blocks)} levels"
            )
        net = SegResNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            init_filters=width,
            blocks_down=tuple(blocks),
            blocks_up=(1,) * (len(blocks) - 1),
            norm=("GROUP", {"num_groups": groups}),
        )
        self.stem: nn.Module = net.convInit
        self.levels: nn.ModuleList = net.down_layers
        self.in_channels = in_channels
        self.channels = tuple(width * 2**level for level in range(len(blocks)))
        self.strides = tuple((2**level,) * spatial_dims for level in range(len(blocks)))

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map."""
        return [nn.Sequential(self.stem, self.levels[0]), *self.levels[1:]]

    def forward(self, images: Map) -> list[Map]:
        """Return the output of every level."""
        return run_in_sequence(self.levels, self.stem(images))
