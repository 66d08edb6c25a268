"""Segmentation head: a U-Net decoder (MONAI blocks) over the encoder's feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetUpBlock
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.encoders import Encoder
from medmim.heads.pyramid import Pyramid
from medmim.shapes import Features, Images, Size

_NORM = ("instance", {"affine": True})


class UNetDecoder(nn.Module):
    """A U-Net decoder over all maps of an encoder, or over a pyramid of maps of one stride.

    From the finest map to full resolution, each upsampling step halves the channels.

    Args:
        encoder: encoder whose maps are decoded; it is not kept.
        halved: whether the first upsampling step halves the channels too: cheaper at full resolution.

    Attributes:
        channels: channels of the full-resolution features.
    """

    def __init__(self, *, encoder: Encoder, spatial_dims: int, halved: bool = False) -> None:
        super().__init__()
        self.pyramid = Pyramid(encoder, spatial_dims=spatial_dims)
        channels, strides = self.pyramid.channels[::-1], self.pyramid.strides[::-1]
        self.up = nn.ModuleList(
            UnetUpBlock(
                spatial_dims,
                channels[i],
                channels[i + 1],
                kernel_size=3,
                stride=1,
                upsample_kernel_size=tuple(c // f for c, f in zip(strides[i], strides[i + 1], strict=True)),
                norm_name=_NORM,
            )
            for i in range(len(channels) - 1)
        )
        self.finish = _FullResolutionLayer(spatial_dims, channels[-1], strides[-1], halved=halved)
        self.channels: int = self.finish.channels

    def decoded(self, maps: list[Features]) -> list[Features]:
        """Return the decoder's maps, fine to coarse, at the strides of the encoder's."""
        maps = self.pyramid(maps)
        decoded = [maps[-1]]
        for block, skip in zip(self.up, maps[-2::-1], strict=True):
            decoded.append(block(decoded[-1], skip))
        return decoded[::-1]

    def features(self, maps: list[Features]) -> Features:
        """Return full-resolution features, (batch, channels, *space), from the encoder's maps."""
        features: Tensor = self.finish(self.decoded(maps)[0])
        return features


class Segmenter(UNetDecoder):
    """An encoder, a U-Net decoder and a layer of class logits.

    The decoder is a base class, so that saved models keep the names of its weights.

    Args:
        classes: number of classes, including background.
        deep_supervision: number of coarser decoder maps with a loss of their own; 0: none. Encoders with
            fewer maps use as many as they have.
        halved: see `UNetDecoder`.
        regions: classes, from 1, of each overlapping region. The layer has as many exclusive classes, against
            a background of logit 0, and the outputs are the logits of their sums; empty: those of the layer.
        priors: share of background and of each class of `regions`, at which their outputs start.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        spatial_dims: int,
        classes: int,
        deep_supervision: int = 0,
        halved: bool = False,
        regions: Sequence[Sequence[int]] = (),
        priors: Sequence[float] = (),
    ) -> None:
        super().__init__(encoder=encoder, spatial_dims=spatial_dims, halved=halved)
        self.encoder = encoder
        conv = Conv[Conv.CONV, spatial_dims]
        self.score = conv(self.channels, classes, kernel_size=1)
        deep = self.pyramid.channels[:-1][:deep_supervision]
        self.deep = nn.ModuleList(conv(width, classes, kernel_size=1) for width in deep)
        self.regions = regions
        for layer in (self.score, *self.deep) if priors else ():
            logs = torch.tensor(priors).log()
            nn.init.zeros_(layer.bias).data.add_(logs[1:] - logs[0])

    def forward(self, images: Images) -> Features:
        """Return logits of classes or regions, (batch, classes, *space)."""
        logits: Tensor = self.score(self.features(self.encoder(images)))
        return self._summed(_with_background(logits)) if self.regions else logits

    def deep_scores(self, images: Images) -> list[Features]:
        """Return logits at full resolution, followed by those of coarser decoder maps, fine to coarse.

        They are those of background and exclusive classes, also with regions.
        """
        maps = self.decoded(self.encoder(images))
        coarse = [head(features) for head, features in zip(self.deep, maps, strict=False)]
        scores = [self.score(self.finish(maps[0])), *coarse]
        return [_with_background(one) for one in scores] if self.regions else scores

    def _summed(self, classes: Features) -> Features:
        """Return the logits of regions from those of background and classes."""
        parts = []
        for own in self.regions:
            others = [one for one in range(classes.shape[1]) if one not in own]
            inside, outside = classes[:, list(own)].logsumexp(dim=1), classes[:, others].logsumexp(dim=1)
            parts.append(inside - outside)
        return torch.stack(parts, dim=1)


def _with_background(logits: Features) -> Features:
    """Return logits of classes after those of the background, which are 0."""
    padded: Tensor = F.pad(logits.float().movedim(1, -1), (1, 0)).movedim(-1, 1)
    return padded


class _FullResolutionLayer(nn.Module):
    """Upsample the finest map to full resolution; the identity for a map of stride 1.

    Attributes:
        channels: channels of the result.
    """

    def __init__(self, spatial_dims: int, channels: int, stride: Size, *, halved: bool) -> None:
        super().__init__()
        self.channels = channels
        self.steps = nn.ModuleList()
        factors = [_prime_factors(length) for length in stride]
        for number, step in enumerate(zip_longest(*factors, fillvalue=1)):
            width = channels if number == 0 and not halved else max(self.channels // 2, 8)
            self.steps.append(
                Conv[Conv.CONVTRANS, spatial_dims](self.channels, width, kernel_size=step, stride=step)
            )
            self.steps.append(
                UnetBasicBlock(spatial_dims, width, width, kernel_size=3, stride=1, norm_name=_NORM)
            )
            self.channels = width

    def forward(self, x: Features) -> Features:
        for step in self.steps:
            x = step(x)
        return x


def _prime_factors(number: int) -> list[int]:
    """Return the prime factors of a stride in ascending order."""
    found: list[int] = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found
