"""The Swin transformer (Liu et al., 2021, arXiv 2103.14030) on MONAI's layers, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from einops import rearrange
from monai.networks.blocks.patchembedding import PatchEmbed
from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
from torch import nn

from medmim.encoders.convnext import ChannelNorm
from medmim.encoders.patch_tokens import TokenEncoder, initialise
from medmim.errors import UsageError
from medmim.shapes import Features, as_size

_PATCH = {2: 4, 3: 2}
_WINDOW = {2: 7, 3: 4}


class SwinEncoder(TokenEncoder):
    """Stages of windowed attention, with patches merged by two along each axis between stages.

    Args:
        patch: patch size in voxels, one number or one per axis; None: 4 in 2D, 2 in 3D.
        width: channels of the finest map, doubled at each coarser one; the default is half of Swin-T's.
        window: window size in patches along each axis; None: 7 in 2D, 4 in 3D.
        patch_norm: whether to normalise patch embeddings; MONAI's SwinUNETR does not.
        drop_path: stochastic depth rate of the last block; it grows linearly from 0.
    """

    def __init__(  # noqa: PLR0913 - options of a network, all given by name
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        patch: int | Sequence[int] | None = None,
        width: int = 48,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int | Sequence[int] | None = None,
        patch_norm: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(len(depths))]
        if not depths or len(depths) != len(heads) or any(w % h for w, h in zip(widths, heads, strict=True)):
            raise UsageError(
                "encoder_options: expected as many heads as depths, each a divisor of its stage's width, got "
                f"depths {list(depths)} and heads {list(heads)} for widths {widths}"
            )
        self.patch = as_size(patch or _PATCH[spatial_dims], spatial_dims, what="encoder_options patch")
        self.width = width
        norm = nn.LayerNorm if patch_norm else None
        self.patches = PatchEmbed(self.patch, in_channels, width, norm, spatial_dims)
        chances = torch.linspace(0, drop_path, sum(depths)).tolist()
        starts = [0, *accumulate(depths)]
        windows = as_size(window or _WINDOW[spatial_dims], spatial_dims, what="encoder_options window")
        self.stages = nn.ModuleList(
            BasicLayer(w, d, h, windows, drop_path=chances[start : start + d], qkv_bias=True)
            for w, d, h, start in zip(widths, depths, heads, starts, strict=False)
        )
        self.merges = nn.ModuleList(PatchMergingV2(w, spatial_dims=spatial_dims) for w in widths[:-1])
        self.norm = ChannelNorm(widths[-1])
        self.apply(initialise)
        self.in_channels = in_channels
        self.channels = tuple(widths)
        self.strides = tuple(tuple(n * 2**stage for n in self.patch) for stage in range(len(depths)))

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per stage."""
        ends = [*[nn.Identity()] * len(self.merges), self.norm]
        first = nn.Sequential(self.patches, self.stages[0], ends[0])
        rest = zip(self.merges, self.stages[1:], ends[1:], strict=True)
        return [first, *(_MergedStage(merge, stage, end) for merge, stage, end in rest)]

    def embed(self, images: Any) -> Any:
        """Return the normalised patch embeddings, (batch, width, *grid)."""
        return self.patches(images)

    def encode(self, patches: Features) -> list[Features]:
        """Return every stage's output for patch embeddings (batch, width, *grid); the last is normalised."""
        maps = [self.stages[0](patches)]
        for merge, stage in zip(self.merges, self.stages[1:], strict=True):
            maps.append(_MergedStage(merge, stage, nn.Identity())(maps[-1]))
        return [*maps[:-1], self.norm(maps[-1])]


class _MergedStage(nn.Module):
    """Patch merging followed by a stage and a norm, from map to map."""

    def __init__(self, merge: nn.Module, stage: nn.Module, end: nn.Module) -> None:
        super().__init__()
        self.merge = merge
        self.stage = stage
        self.end = end

    def forward(self, features: Features) -> Features:
        merged = self.merge(rearrange(features, "b c ... -> b ... c"))
        y: Features = self.end(self.stage(rearrange(merged, "b ... c -> b c ...")))
        return y
