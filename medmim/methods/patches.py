"""What methods on patches share: the encoders that they take, and hidden cells as hidden patches."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from medmim.encoders import Encoder, TokenEncoder
from medmim.encoders.vit import ViTEncoder
from medmim.errors import UsageError
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Size


def require_patches(encoder: Encoder, *, method: str) -> TokenEncoder:
    """Return an encoder that begins with patches.

    Raises:
        UsageError: for another one.
    """
    if not isinstance(encoder, TokenEncoder):
        raise UsageError(
            f"method '{method}' needs an encoder that begins with patches: expected --encoder vit or swin, "
            f"got {type(encoder).__name__}"
        )
    return encoder


def require_sets_of_patches(encoder: Encoder, *, method: str) -> ViTEncoder:
    """Return an encoder that can see some patches of an image only.

    Raises:
        UsageError: for another one.
    """
    if not isinstance(encoder, ViTEncoder):
        raise UsageError(
            f"method '{method}' needs an encoder that can leave patches out: expected --encoder vit, got "
            f"{type(encoder).__name__}"
        )
    return encoder


def hidden_patches(hidden: Hidden, grid: Size) -> Bool[Tensor, "batch *patches"]:
    """Return which patches of a grid are hidden; a mask cell holds a whole number of them."""
    return hidden_voxels(hidden, grid)[:, 0]
