"""What a method predicts for hidden cells: pixels, gradient histograms (HOG), or features of an EMA encoder.

HOG is that of MaskFeat (Wei et al., 2022, arXiv 2112.09133). The histogram equals `skimage.feature.hog` with
blocks of one cell and norm L2: gradients are central differences, zero at the border; each voxel adds its
gradient magnitude to the bin of its orientation, 0 to 180 degrees; the mean over a histogram cell is divided
by its L2 norm over the bins. In 3D there is one histogram for each pair of axes, from the gradient within
that plane.

Averaged features are the target of data2vec (Baevski et al., arXiv 2202.03555).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import combinations
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medmim.encoders import Encoder
from medmim.errors import ShapeError, size_text
from medmim.methods.ema_teacher import EMATeacher
from medmim.shapes import Features, Images, Size, as_size, grid_of, require_whole_cells

Cells = Float[Tensor, "batch cells values"]

_SPLIT = {
    2: "b c (gy cy) (gx cx) -> b (gy gx) (c cy cx)",
    3: "b c (gz cz) (gy cy) (gx cx) -> b (gz gy gx) (c cz cy cx)",
}
_AXES = {2: ("y", "x"), 3: ("z", "y", "x")}


def to_cells(images: Images, cell: Size) -> Cells:
    """Split images into mask cells: (batch, cells, channels × voxels of a cell), cells in grid order."""
    names = _AXES[len(cell)]
    sizes = {f"c{name}": step for name, step in zip(names, cell, strict=True)}
    return rearrange(images, _SPLIT[len(cell)], **sizes)


def from_cells(cells: Cells, space: Size, cell: Size) -> Images:
    """Join cells to images of `space` voxels; the inverse of `to_cells`."""
    names = _AXES[len(cell)]
    before, after = _SPLIT[len(cell)].split(" -> ")
    sizes = {f"c{name}": step for name, step in zip(names, cell, strict=True)}
    sizes |= {f"g{name}": count for name, count in zip(names, grid_of(space, cell), strict=True)}
    return rearrange(cells, f"{after} -> {before}", **sizes)


class Target(nn.Module, ABC):
    """The values that a method predicts for each cell.

    Attributes:
        name: name in the survey's taxonomy, a tag of the run.
        cell: voxels of a cell along each axis; mask cells are multiples of it.
        stride: distance of the values in voxels; must divide the cell.
    """

    name: ClassVar[str]
    cell: Size
    stride: Size

    @abstractmethod
    def channels(self, in_channels: int) -> int:
        """Return the number of values per position for images with `in_channels` channels."""

    @abstractmethod
    def forward(self, images: Images) -> Cells:
        """Return the target, float32 and without gradient."""

    def picture(self, prediction: Cells, images: Images) -> Images | None:
        """Return a prediction as images; None for targets that are not images."""
        return None

    def update_ema(self, student: nn.Module, *, progress: float) -> None:
        """Update a target that depends on the encoder, after an optimizer step."""


class RawPixels(Target):
    """Unchanged pixels, as in SimMIM."""

    name = "raw pixels"

    def __init__(self, cell: Size) -> None:
        super().__init__()
        self.cell = cell
        self.stride = (1,) * len(cell)

    def channels(self, in_channels: int) -> int:
        """Return one value per channel."""
        return in_channels

    def forward(self, images: Images) -> Cells:
        """Return the target, float32."""
        return to_cells(images.detach().float(), self.cell)

    def picture(self, prediction: Cells, images: Images) -> Images:
        """Return the prediction as images."""
        return from_cells(prediction.float(), tuple(images.shape[2:]), self.cell)


class NormalisedPixels(Target):
    """Each cell minus its mean over its standard deviation, as in MAE (norm_pix_loss) and SparK."""

    name = "normalised pixels"

    def __init__(self, cell: Size, eps: float = 1e-6) -> None:
        super().__init__()
        self.cell = cell
        self.stride = (1,) * len(cell)
        self.eps = eps

    def channels(self, in_channels: int) -> int:
        """Return one value per channel."""
        return in_channels

    def forward(self, images: Images) -> Cells:
        """Return the target, float32."""
        cells = to_cells(images.detach().float(), self.cell)
        mean, deviation = self._statistics(cells)
        return (cells - mean) / deviation

    def picture(self, prediction: Cells, images: Images) -> Images:
        """Undo the normalisation with the statistics of the true cells."""
        mean, deviation = self._statistics(to_cells(images.float(), self.cell))
        return from_cells(prediction.float() * deviation + mean, tuple(images.shape[2:]), self.cell)

    def _statistics(self, cells: Cells) -> tuple[Tensor, Tensor]:
        variance = cells.var(dim=-1, keepdim=True, unbiased=True)
        return cells.mean(dim=-1, keepdim=True), (variance + self.eps).sqrt()


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
                f"target 'hog': expected a pool that divides the cell of {size_text(cell)} voxels, "
                f"got {size_text(self.stride)}"
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


class EMAFeatures(Target):
    """The coarsest map of an EMA teacher of the whole image, normalised over the channels of each position.

    Raises:
        ShapeError: if a cell is finer than the encoder's coarsest map.
    """

    name = "EMA features"

    def __init__(
        self, cell: Size, *, encoder: Encoder, momentum: float = 0.99, last_momentum: float = 1.0
    ) -> None:
        super().__init__()
        require_whole_cells(cell, encoder.total_stride, of="the encoder's total stride")
        self.cell = cell
        self.stride = encoder.total_stride
        self.width = encoder.channels[-1]
        self.teacher = EMATeacher(encoder, momentum=momentum, last_momentum=last_momentum)

    def channels(self, in_channels: int) -> int:
        """Return the channels of the encoder's coarsest map."""
        return self.width

    def forward(self, images: Images) -> Cells:
        """Return the target, float32."""
        features: Tensor = self.teacher(images)[-1].float()
        normed = F.layer_norm(features.movedim(1, -1), (self.width,)).movedim(-1, 1)
        steps = tuple(n // step for n, step in zip(self.cell, self.stride, strict=True))
        return to_cells(normed, steps)

    def update_ema(self, student: nn.Module, *, progress: float) -> None:
        """Update the teacher."""
        self.teacher.update(student, progress=progress)
