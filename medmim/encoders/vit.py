"""The vision transformer (Dosovitskiy et al., 2021, arXiv 2010.11929) on MONAI's parts, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.blocks.mlp import MLPBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.layers.drop_path import DropPath
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medmim.encoders.patch_tokens import (
    PatchSelection,
    Real,
    TokenEncoder,
    Tokens,
    as_map,
    as_sequence,
    initialise,
    wave_positions,
)
from medmim.errors import UsageError
from medmim.shapes import Features, as_size

_PATCH = {2: 16, 3: 8}
_MAPS = 4
_MODES = {2: "bicubic", 3: "trilinear"}  # of the interpolation of learned positions


class Block(nn.Module):
    """A pre-norm transformer block of MONAI's parts that can ignore padding (Dosovitskiy et al., 2021).

    MONAI's own `TransformerBlock` contains an unused cross-attention norm and has no stochastic depth.
    """

    def __init__(
        self, width: int, heads: int, *, expansion: int = 4, drop_path: float = 0.0, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = SABlock(width, heads, qkv_bias=True, use_flash_attention=True)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLPBlock(width, expansion * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tokens, real: Real | None = None) -> Tokens:
        """Apply attention and MLP to patches (batch, patches, width); `real` is False at padding."""
        mask = None if real is None else real[:, None, None, :]  # broadcast over heads and queries
        x = x + self.drop_path(self.attention(self.norm1(x), attn_mask=mask))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class ViTEncoder(TokenEncoder):
    """Patch embedding, positions and transformer blocks, for images of any size.

    It returns the output of four equally spaced blocks (of all blocks, where there are fewer), as UNETR uses
    them (Hatamizadeh et al., 2022, arXiv 2103.10504). All maps have the stride of a patch; the last is
    normalised.

    Args:
        patch: patch size in voxels, one number or one per axis; None: 16 in 2D, 8 in 3D.
        width: channels; the defaults are those of ViT-Tiny.
        class_token: whether to prepend a class token.
        position_grid: patches along each axis for which to learn positions, which are interpolated for other
            grids; None: fixed sine-cosine positions.
        position_stretch: whether fixed positions are stretched as in Latent MIM's code (`wave_positions`).
        drop_path: stochastic depth rate of the last block; it grows linearly from 0.
    """

    def __init__(  # noqa: PLR0913 - options of a network, all given by name
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        patch: int | Sequence[int] | None = None,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        class_token: bool = False,
        position_grid: int | Sequence[int] | None = None,
        position_stretch: bool = False,
        norm_eps: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1 or heads < 1 or width % heads or width < 2 * spatial_dims:
            raise UsageError(
                "encoder_options: expected a depth of at least 1 and a width that is a multiple of heads and "
                f"at least {2 * spatial_dims}, got depth {depth}, width {width} and heads {heads}"
            )
        self.patch = as_size(patch or _PATCH[spatial_dims], spatial_dims, what="encoder_options patch")
        self.width = width
        self.patches = Conv[Conv.CONV, spatial_dims](in_channels, width, self.patch, stride=self.patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        chances = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(
            Block(width, heads, drop_path=chance, norm_eps=norm_eps) for chance in chances
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.positions = _Positions(width, position_grid, spatial_dims, stretch=position_stretch)
        self.apply(initialise)
        nn.init.xavier_uniform_(self.patches.weight.flatten(1))  # as a linear layer on the voxels of a patch
        if self.token is not None:
            nn.init.trunc_normal_(self.token, std=0.02)
        count = min(_MAPS, depth)
        self._read = [depth * number // count for number in range(1, count + 1)]
        self.in_channels = in_channels
        self.channels = (width,) * count
        self.strides = (self.patch,) * count

    def steps(self) -> list[nn.Module]:
        """Return the encoder as modules, one per map; none with a class token, which no map contains."""
        if self.token is not None:
            return []
        groups = [self.blocks[first:last] for first, last in pairwise([0, *self._read])]
        last = len(groups) - 1
        return [
            nn.Sequential(
                nn.Identity() if number else _PositionedPatches(self.patches, self.positions),
                _BlockGroup(blocks, self.norm if number == last else nn.Identity()),
            )
            for number, blocks in enumerate(groups)
        ]

    def embed(self, images: Any) -> Any:
        """Return the patch embeddings, (batch, width, *grid), without positions."""
        return self.patches(images)

    def encode(self, patches: Features) -> list[Features]:
        """Return the feature maps of patch embeddings (batch, width, *grid)."""
        grid = tuple(patches.shape[2:])
        ahead = 0 if self.token is None else 1
        outputs = [y[:, ahead:] for y in self._sequences(self.positions(patches), None)]
        read = [outputs[depth - 1] for depth in self._read]
        return [as_map(sequence, grid) for sequence in (*read[:-1], self.norm(read[-1]))]

    def encode_chosen(self, patches: Features, chosen: PatchSelection) -> Tokens:
        """Return the normalised outputs of selected patches, computed from these alone, as in MAE."""
        return self.encode_with_class_token(patches, chosen)[1]

    def encode_with_class_token(self, patches: Features, chosen: PatchSelection) -> tuple[Tokens, Tokens]:
        """Return the class token, (batch, 0 or 1, width), and the outputs of `encode_chosen`."""
        *_, last = self._sequences(chosen.take(self.positions(patches)), chosen.real)
        normed: Tokens = self.norm(last)
        ahead = 0 if self.token is None else 1
        return normed[:, :ahead], normed[:, ahead:]

    def _sequences(self, x: Tokens, real: Real | None) -> Iterator[Tokens]:
        """Yield the output of every block, after the class token where there is one."""
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
            real = None if real is None else nn.functional.pad(real, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, real)
            yield x


class _PositionedPatches(nn.Module):
    """Patch embeddings with positions, as a map."""

    def __init__(self, patches: nn.Module, positions: nn.Module) -> None:
        super().__init__()
        self.patches = patches
        self.positions = positions

    def forward(self, images: Any) -> Features:
        patches = self.patches(images)
        return as_map(self.positions(patches), tuple(patches.shape[2:]))


class _BlockGroup(nn.Module):
    """Consecutive transformer blocks, from map to map."""

    def __init__(self, blocks: nn.ModuleList, end: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.end = end

    def forward(self, features: Features) -> Features:
        x = as_sequence(features)
        for block in self.blocks:
            x = block(x, None)
        return as_map(self.end(x), tuple(features.shape[2:]))


class _Positions(nn.Module):
    """Add positions to patch embeddings: fixed sine-cosine waves, or learned ones for a grid."""

    def __init__(
        self, width: int, grid: int | Sequence[int] | None, spatial_dims: int, *, stretch: bool
    ) -> None:
        super().__init__()
        self.stretch = stretch
        self.grid = (
            grid if grid is None else as_size(grid, spatial_dims, what="encoder_options.position_grid")
        )
        self.learned = None
        if self.grid is not None:
            waves = wave_positions(self.grid, width, device=torch.device("cpu"))
            self.learned = nn.Parameter(waves.unsqueeze(0))  # (1, patches, width)

    def forward(self, patches: Features) -> Tokens:
        grid = tuple(patches.shape[2:])
        if self.learned is None or self.grid is None:
            waves = wave_positions(grid, patches.shape[1], device=patches.device, stretch=self.stretch)
            return as_sequence(patches) + waves
        if grid == self.grid:
            return as_sequence(patches) + self.learned
        resized = nn.functional.interpolate(
            as_map(self.learned, self.grid), size=grid, mode=_MODES[len(grid)], align_corners=False
        )
        return as_sequence(patches + resized)
