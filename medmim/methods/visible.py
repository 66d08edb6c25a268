"""What an encoder makes of visible cells alone, pooled to one vector an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from medmim.encoders import Encoder, Masked, Packed, mask, pack
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images

Compute = Literal["packed", "masked"]
Pooled = Float[Tensor, "batch width"]

HIDE: dict[str, Callable[[Images, Hidden], Masked | Packed]] = {"packed": pack, "masked": mask}


def pooled(encoder: Encoder, images: Images, hidden: Hidden, *, compute: Compute) -> Pooled:
    """Return the mean of the coarsest map over visible voxels, in float32.

    Args:
        encoder: that never sees a hidden cell.
        images: (batch, channels, *space).
        hidden: (batch, *grid), True = hidden; samples may hide different counts.
        compute: how hidden cells are kept from a convolutional encoder; the results are equal.
    """
    features = encoder(HIDE[compute](images, hidden))[-1].unpack().float()
    visible = ~hidden_voxels(hidden, tuple(features.shape[2:])).flatten(2)
    mean: Tensor = (features.flatten(2) * visible).sum(dim=-1) / visible.sum(dim=-1)
    return mean
