"""Targets of reconstruction: the interface, raw pixels and normalised pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medmim.shapes import Images, Size, grid_of

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
