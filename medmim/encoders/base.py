"""The base class of all encoders: networks that return feature maps from fine to coarse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from medmim.shapes import Size

Map = TypeVar("Map")


class Encoder(nn.Module, ABC):
    """A network that turns images into a hierarchy of feature maps.

    Attributes:
        channels: channels of each map, fine to coarse.
        strides: stride of each map in image voxels along each axis, fine to coarse.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[Size, ...]

    @property
    def total_stride(self) -> Size:
        """Stride of the coarsest map; image sizes and mask cells are multiples of it."""
        return self.strides[-1]

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map, each of which takes the output of the one before.

        Empty for an encoder that cannot be cut between its maps.
        """
        return []

    @abstractmethod
    def forward(self, images: Map) -> list[Map]:
        """Return the feature maps, fine to coarse, of images: a tensor, `Masked` or `Packed`."""


def run_in_sequence(modules: Iterable[nn.Module], x: Map) -> list[Map]:
    """Return the output of every module, each applied to the output of the one before."""
    outputs = []
    for module in modules:
        x = module(x)
        outputs.append(x)
    return outputs
