"""Token decoders: small transformers that map embeddings of visible patches to those of hidden ones.

`self` applies self-attention to all patches, as in MAE (He et al., 2022, arXiv 2111.06377); `cross` lets
hidden patches attend to fixed visible ones, as in Latent MIM (arXiv 2407.15837), so that the decoder cannot
refine the encoder's output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from monai.networks.blocks.mlp import MLPBlock
from torch import Tensor, nn

from medmim.encoders.patch_tokens import PatchSelection, Real, Tokens, initialise, wave_positions
from medmim.encoders.vit import Block
from medmim.errors import UsageError
from medmim.shapes import Size

_HEAD_WIDTH = 32  # channels per head of MAE's decoder: 512 channels, 16 heads


class TokenDecoder(nn.Module, ABC):
    """Map embeddings of visible patches to embeddings of hidden ones.

    A hidden patch starts as a mask token with its position. With visual cues, the visible patches are added
    to it, weighted by a softmax over the similarity of positions, which has no parameters.

    Args:
        width: channels of the decoder; None: half of `in_width`, at least one head.
        cues: whether to add visual cues.
        stretch: whether positions are stretched (`wave_positions`).
    """

    name: ClassVar[str]

    def __init__(
        self,
        in_width: int,
        *,
        width: int | None = None,
        depth: int = 3,
        cues: bool = True,
        norm_eps: float = 1e-5,
        stretch: bool = False,
    ) -> None:
        super().__init__()
        self.width = width or max(in_width // 2, _HEAD_WIDTH)
        heads = max(self.width // _HEAD_WIDTH, 1)
        if self.width % heads or depth < 1:
            raise UsageError(
                f"decoder: expected a depth of at least 1 and a width that is a multiple of {_HEAD_WIDTH}, "
                f"got depth {depth} and width {self.width}"
            )
        self.cues = cues
        self.norm_eps = norm_eps
        self.stretch = stretch
        self.embed = nn.Linear(in_width, self.width)
        self.token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.blocks = nn.ModuleList(self._block(heads) for _ in range(depth))
        self.norm = nn.LayerNorm(self.width, eps=norm_eps)
        self.apply(initialise)

    @abstractmethod
    def _block(self, heads: int) -> nn.Module:
        """Return one block."""

    @abstractmethod
    def _through(self, queries: Tokens, context: Tokens, wanted: Real | None, visible: Real | None) -> Tokens:
        """Return the hidden patches after all blocks; `wanted` and `visible` are False at padding."""

    def forward(
        self,
        latents: Tokens,
        visible: PatchSelection,
        wanted: PatchSelection,
        grid: Size,
        extra: Tokens | None = None,
    ) -> Tokens:
        """Return an embedding for each wanted patch, (batch, wanted, width).

        Extra embeddings have no position, such as a class token, (batch, _, in_width).
        """
        waves = wave_positions(grid, self.width, device=latents.device, stretch=self.stretch)
        waves = waves.expand(len(latents), -1, -1)
        visible_at, wanted_at = visible.take(waves), wanted.take(waves)
        context = self.embed(latents)
        queries = self.token + wanted_at
        if self.cues:
            queries = queries + _visual_cues(wanted_at, visible_at, context, visible.real)
        context = context + visible_at
        real = visible.real
        if extra is not None and extra.shape[1]:
            context = torch.cat([self.embed(extra), context], dim=1)
            real = None if real is None else F.pad(real, (extra.shape[1], 0), value=True)
        decoded: Tokens = self.norm(self._through(queries, context, wanted.real, real))
        return decoded


class SelfDecoder(TokenDecoder):
    """Self-attention over visible and hidden patches, as in MAE; arguments as of `TokenDecoder`."""

    name = "self-attention decoder"

    def __init__(self, in_width: int, **options: Any) -> None:
        super().__init__(in_width, **options)
        nn.init.normal_(self.token, std=0.02)

    def _block(self, heads: int) -> nn.Module:
        return Block(self.width, heads, norm_eps=self.norm_eps)

    def _through(self, queries: Tokens, context: Tokens, wanted: Real | None, visible: Real | None) -> Tokens:
        both = torch.cat([context, queries], dim=1)
        real = None
        if wanted is not None or visible is not None:
            parts = ((visible, context), (wanted, queries))
            everywhere = [x.new_ones(x.shape[:2], dtype=torch.bool) if r is None else r for r, x in parts]
            real = torch.cat(everywhere, dim=1)
        for block in self.blocks:
            both = block(both, real)
        return both[:, context.shape[1] :]


class CrossDecoder(TokenDecoder):
    """Hidden patches attend to each other and to visible ones; arguments as of `TokenDecoder`.

    The mask token starts at 0, as in Latent MIM's code.
    """

    name = "cross-attention decoder"

    def _block(self, heads: int) -> nn.Module:
        return _CrossBlock(self.width, heads, self.norm_eps)

    def _through(self, queries: Tokens, context: Tokens, wanted: Real | None, visible: Real | None) -> Tokens:
        for block in self.blocks:
            queries = block(queries, context, wanted, visible)
        return queries


DECODERS: dict[str, type[TokenDecoder]] = {"self": SelfDecoder, "cross": CrossDecoder}


class _CrossBlock(nn.Module):
    """Self-attention among hidden patches, cross-attention to visible ones, MLP."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=norm_eps) for _ in range(4))
        self.among = nn.MultiheadAttention(width, heads, batch_first=True)
        self.across = nn.MultiheadAttention(width, heads, batch_first=True)
        queries, pairs = self.across.in_proj_weight[:width], self.across.in_proj_weight[width:]
        for projection in (queries, pairs):  # two layers in Latent MIM's code
            nn.init.xavier_uniform_(projection)
        self.mlp = MLPBlock(width, 4 * width)

    def forward(self, x: Tokens, context: Tokens, real: Real | None, seen: Real | None) -> Tokens:
        x = x + _attend(self.among, self.norms[0](x), None, real)
        x = x + _attend(self.across, self.norms[1](x), self.norms[2](context), seen)
        y: Tensor = x + self.mlp(self.norms[3](x))
        return y


def _attend(attention: nn.Module, x: Tokens, context: Tokens | None, real: Real | None) -> Tokens:
    """Attend to `context`, or to `x` itself without one; padding is ignored."""
    keys = x if context is None else context
    ignored = None if real is None else ~real
    y: Tensor
    y, _ = attention(x, keys, keys, key_padding_mask=ignored, need_weights=False)
    return y


def _visual_cues(wanted_at: Tokens, visible_at: Tokens, values: Tokens, real: Real | None) -> Tokens:
    """Return the mean of visible embeddings, weighted by a softmax over the similarity of positions."""
    among = None if real is None else real[:, None, :]
    return F.scaled_dot_product_attention(
        wanted_at.to(values.dtype), visible_at.to(values.dtype), values, among
    )
