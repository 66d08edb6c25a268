"""A transformer block of MONAI's parts that leaves out fillers, for sets of patches of unequal size."""

from __future__ import annotations

from monai.networks.blocks.mlp import MLPBlock
from monai.networks.blocks.selfattention import SABlock
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn

from medmim.encoders.patch_tokens import Real, Tokens


class Block(nn.Module):
    """Norm and attention, norm and perceptron, each added to what came in (Dosovitskiy et al., 2021).

    MONAI's own `TransformerBlock` holds a cross-attention norm that nothing trains, and has no drop path.

    Args:
        width: channels.
        heads: of the attention.
        expansion: channels inside the perceptron, relative to `width`.
        drop_path: chance that a branch is skipped for a sample while training.
    """

    def __init__(self, width: int, heads: int, *, expansion: int = 4, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SABlock(width, heads, qkv_bias=True, use_flash_attention=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLPBlock(width, expansion * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tokens, real: Real | None = None) -> Tokens:
        """Let patches see each other.

        Args:
            x: (batch, patches, width).
            real: False at patches that nothing must see; None: all are real.
        """
        seen = None if real is None else real[:, None, None, :]  # for each head and each patch that looks
        x = x + self.drop_path(self.attention(self.norm1(x), attn_mask=seen))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y
