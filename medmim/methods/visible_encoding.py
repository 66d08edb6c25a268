"""Encoding of visible cells only: checks of the encoder, and features pooled over visible voxels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from medmim.encoders import Encoder, Masked, Packed, TokenEncoder, mask, pack
from medmim.encoders.patch_tokens import select_patches
from medmim.encoders.vit import ViTEncoder
from medmim.errors import UsageError
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images, Size

PatchBased = TypeVar("PatchBased", TokenEncoder, ViTEncoder)


def require_patches(encoder: Encoder, kind: type[PatchBased], *, method: str) -> PatchBased:
    """Return the encoder if it is of a kind: patch-based, or a ViT, which can encode a subset of the patches.

    Raises:
        UsageError: for any other encoder.
    """
    if not isinstance(encoder, kind):
        names = "vit" if kind is ViTEncoder else "vit or swin"
        raise UsageError(
            f"method '{method}' needs an encoder of patches: expected --encoder {names}, got "
            f"{type(encoder).__name__}"
        )
    return encoder


def hidden_patches(hidden: Hidden, grid: Size) -> Bool[Tensor, "batch *patches"]:
    """Upsample a mask to a grid of patches, of which a mask cell is a multiple."""
    return hidden_voxels(hidden, grid)[:, 0]


Compute = Literal["packed", "masked"]
Pooled = Float[Tensor, "batch width"]

HIDE: dict[str, Callable[[Images, Hidden], Masked | Packed]] = {"packed": pack, "masked": mask}


def pooled(encoder: Encoder, images: Images, hidden: Hidden, *, compute: Compute) -> Pooled:
    """Return the mean of the coarsest map over visible voxels, in float32."""
    if isinstance(encoder, TokenEncoder):
        return _pooled_patches(encoder, images, hidden)
    return pooled_map(encoder(HIDE[compute](images, hidden))[-1], hidden)


def pooled_map(features: Masked | Packed, hidden: Hidden) -> Pooled:
    """Return the mean of one map over visible voxels, in float32."""
    dense = features.unpack().float()
    visible = ~hidden_voxels(hidden, tuple(dense.shape[2:])).flatten(2)
    mean: Tensor = (dense.flatten(2) * visible).sum(dim=-1) / visible.sum(dim=-1)
    return mean


def _pooled_patches(encoder: TokenEncoder, images: Images, hidden: Hidden) -> Pooled:
    """Drop hidden patches where the encoder can; otherwise set their embeddings to zero."""
    patches = encoder.embed(images)
    covered = hidden_patches(hidden, tuple(patches.shape[2:]))
    if isinstance(encoder, ViTEncoder):
        visible = select_patches(~covered)
        latents = encoder.encode_chosen(patches, visible).float()
        mean: Tensor = (latents * visible.weight).sum(dim=1) / visible.weight.sum(dim=1)
        return mean
    maps = encoder.encode(patches.masked_fill(covered.unsqueeze(1), 0))
    over_all: Tensor = maps[-1].float().flatten(2).mean(dim=-1)
    return over_all
