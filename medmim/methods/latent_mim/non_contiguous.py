"""Latent MIM's non-contiguous patches: each is cropped from a larger mask cell at a random offset.

No two patches touch, so that none can be predicted from its neighbour's edge (arXiv 2407.15837).
"""

from __future__ import annotations

import zlib

import torch
from einops import rearrange
from torch import Tensor

from medmim.randomness import torch_stream
from medmim.shapes import Features, Hidden, Images, Size, grid_of

_JOIN = {
    2: "b gy gx py px c -> b c (gy py) (gx px)",
    3: "b gz gy gx pz py px c -> b c (gz pz) (gy py) (gx px)",
}


def crop_patches(images: Images, hidden: Hidden, *, cell: Size, patch: Size) -> Features:
    """Return images made of one patch per cell.

    The offsets, 0 to cell - patch - 1 along each axis, are derived from the mask, so that equal masks give
    equal crops.

    Args:
        images: (batch, channels, *space); space = grid × cell.
        hidden: (batch, *grid).
        patch: voxels of a patch along each axis, at most those of a cell.

    Returns:
        (batch, channels, *space) with space = grid × patch.
    """
    grid, dims = grid_of(tuple(images.shape[2:]), cell), len(cell)
    generator = torch_stream(zlib.crc32(hidden.cpu().numpy().tobytes()), "patch offsets")
    batch = torch.arange(len(images), device=images.device)
    places = [batch.reshape(-1, *[1] * 2 * dims)]
    for axis, (cells, length, size) in enumerate(zip(grid, cell, patch, strict=True)):
        offset = torch.randint(max(length - size, 1), (len(images), *grid), generator=generator)
        start = offset.to(images.device) + _along(torch.arange(cells) * length, axis, dims).to(images.device)
        inside = _along(torch.arange(size), axis, dims).to(images.device)
        places.append(start.reshape(*start.shape, *[1] * dims) + inside)
    return rearrange(images.movedim(1, -1)[tuple(places)], _JOIN[dims])


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    """Reshape values to broadcast along one of `dims` axes."""
    return values.reshape([-1 if other == axis else 1 for other in range(dims)])
