"""Histograms of oriented gradients as a target, after MaskFeat (Wei et al., 2022, arXiv 2112.09133).

The histogram equals `skimage.feature.hog` with blocks of one cell and norm L2: gradients are central
differences, zero at the border; each voxel adds its gradient magnitude to the bin of its orientation, 0 to
180 degrees; the mean over a histogram cell is divided by its L2 norm over the bins. In 3D there is one
histogram for each pair of axes, from the gradient within that plane.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from medmim.errors import ShapeError
from medmim.methods.targets.pixels import Cells, Target, to_cells
from medmim.shapes import Features, Images, Size, as_size

_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
_EPS = 1e-5  # scikit-image's


class HOG(Target):
    """Histograms of oriented gradients of each channel.

    Args:
        pool: voxels of a histogram, one number or one per axis; None: half a cell where it is even, as
            MaskFeat's 8 of 16.
    """

    name = "HOG"

    def __init__(self, cell: Size, *, bins: int = 9, pool: int | list[int] | None = None) -> None:
        super().__init__()
        self.cell = cell
        self.bins = bins
        half = tuple(n // 2 if n % 2 == 0 else n for n in cell)
        self.stride = half if pool is None else as_size(pool, len(cell), what="target 'hog' pool")
        if any(n % step for n, step in zip(cell, self.stride, strict=True)):
            raise ShapeError(
                f"target 'hog': expected a pool that divides the cell of {'×'.join(map(str, cell))} voxels, "
                f"got {'×'.join(map(str, self.stride))}"
            )

    def channels(self, in_channels: int) -> int:
        """Return the number of bins over all planes and channels."""
        return in_channels * math.comb(len(self.cell), 2) * self.bins

    def forward(self, images: Images) -> Cells:
        """Return the target, float32."""
        steps = tuple(n // step for n, step in zip(self.cell, self.stride, strict=True))
        return to_cells(oriented_gradients(images.detach().float(), self.stride, bins=self.bins), steps)


def oriented_gradients(images: Images, pool: Size, *, bins: int) -> Features:
    """Return the histograms, (batch, planes × channels × bins, *space / pool)."""
    slopes = [_slope(images, axis) for axis in range(2, images.dim())]
    planes = [_histograms(rows, columns, pool, bins) for rows, columns in combinations(slopes, 2)]
    return torch.cat(planes, dim=1)


def _slope(images: Tensor, axis: int) -> Tensor:
    """Return central differences along an axis, zero at the border."""
    slope, inner = torch.zeros_like(images), images.shape[axis] - 2
    if inner > 0:
        after, before = images.narrow(axis, 2, inner), images.narrow(axis, 0, inner)
        slope.narrow(axis, 1, inner).copy_(after - before)
    return slope


def _histograms(rows: Tensor, columns: Tensor, pool: Size, bins: int) -> Tensor:
    """Return the normalised histograms of one plane from the gradient along its two axes."""
    # unsigned orientation: flip to the upper half plane first, so that rounding never wraps around
    down = (rows < 0) | ((rows == 0) & (columns < 0))
    angle = torch.atan2(rows.where(~down, -rows), columns.where(~down, -columns))
    index = (angle * (bins / math.pi)).long().clamp(max=bins - 1).unsqueeze(2)
    length = torch.hypot(rows, columns).unsqueeze(2)
    votes = torch.zeros_like(length).repeat_interleave(bins, dim=2).scatter_(2, index, length)
    means = rearrange(
        _POOL[len(pool)](votes.flatten(1, 2), pool), "b (c bins) ... -> b c bins ...", bins=bins
    )
    normed: Tensor = means / (means.square().sum(dim=2, keepdim=True) + _EPS**2).sqrt()
    return normed.flatten(1, 2)
