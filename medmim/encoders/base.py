"""What every encoder gives: feature maps from fine to coarse, with their channels and strides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import nn

from medmim.shapes import Size

Map = TypeVar("Map")


class Encoder(nn.Module, ABC):
    """A network that turns images into a hierarchy of feature maps.

    Attributes:
        in_channels: image channels.
        channels: channels of each map, fine to coarse.
        strides: image voxels a map voxel along each spatial axis, for each map, fine to coarse.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[Size, ...]

    @property
    def total_stride(self) -> Size:
        """Stride of the coarsest map; image sizes and mask cells are multiples of it."""
        return self.strides[-1]

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one a map, each of which takes what the one before gave.

        For methods that bring something in on the way; empty for an encoder that cannot be cut.
        """
        return []

    @abstractmethod
    def forward(self, images: Map) -> list[Map]:
        """Return the maps, fine to coarse.

        Args:
            images: (batch, channels, *space) tensor, or anything that behaves as one (`Masked`).
        """
