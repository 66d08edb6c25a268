"""MaskAnyNet as a regulariser of fine-tuning: a second task loss on a masked image and its reuse image.

The masked image passes through the network, whose encoder is combined with an auxiliary branch that sees the
hidden parts (arXiv 2511.12480). The network itself does not change: the branch is discarded after training.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.encoders.base import Map
from medmim.masks import build_mask, hidden_voxels
from medmim.methods.two_branch_encoder import FusionConfig, TwoBranchEncoder, stitch
from medmim.randomness import torch_stream
from medmim.shapes import grid_of

RATIO = 0.25  # the paper's best
WEIGHT = 0.5  # weight of the second loss relative to the first


class MaskAnyNetRegularizer(nn.Module):
    """The auxiliary branch, and the inputs of both branches at each step."""

    def __init__(self, encoder: Encoder, *, spatial_dims: int, seed: int) -> None:
        super().__init__()
        level = "low" if encoder.steps() else "image"
        self.blend = TwoBranchEncoder(encoder, spatial_dims=spatial_dims, how=FusionConfig(level=level))
        self.mask = build_mask("combined", ratio=RATIO)
        self.cell = encoder.total_stride
        self.seed = seed

    def forward(
        self, network: nn.Module, batch: dict[str, Any], *, step: int, share: tuple[int, int] = (0, 1)
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Return a network with the same weights whose encoder gets the reuse image, and the masked batch.

        Args:
            network: network with an attribute `encoder`, of which it uses only the maps.
            batch: batch with `image`, (batch, channels, *space).
            share: index of this batch among the batches of the step, and their number; each batch samples
                the masks of the whole step.
        """
        images: Tensor = batch["image"]
        space = tuple(images.shape[2:])
        generator = torch_stream(self.seed, "reuse", step)
        part, parts = share
        hidden = self.mask.sample(parts * len(images), grid_of(space, self.cell), generator=generator)
        hidden = hidden[part * len(images) :][: len(images)].to(images.device)
        encoder = network.get_submodule("encoder")
        assert isinstance(encoder, Encoder)
        joined = _Joined(encoder, self.blend, stitch(images, hidden, self.cell))
        masked = images.masked_fill(hidden_voxels(hidden, space), 0)
        return _with_encoder(network, joined), {**batch, "image": masked}


class _Joined(Encoder):
    """An encoder with its auxiliary branch, for one batch."""

    def __init__(self, encoder: Encoder, blend: TwoBranchEncoder, reuse: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.blend = blend
        self.reuse = reuse
        self.in_channels = encoder.in_channels
        self.channels = encoder.channels
        self.strides = encoder.strides

    def forward(self, images: Map) -> list[Map]:
        maps: list[Map] = self.blend(self.encoder, images, self.reuse)
        return maps


def _with_encoder(network: nn.Module, encoder: Encoder) -> nn.Module:
    """Return a shallow copy: every weight is shared, and the original keeps its encoder."""
    twin = copy.copy(network)
    twin._modules = {**network._modules, "encoder": encoder}
    return twin
