"""What a reconstruction is compared with: pixels of each mask cell, raw or normalised."""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from medmim.shapes import Images, Size, grid_of

Cells = Float[Tensor, "batch cells values"]

_SPLIT = {
    2: "b c (gy cy) (gx cx) -> b (gy gx) (c cy cx)",
    3: "b c (gz cz) (gy cy) (gx cx) -> b (gz gy gx) (c cz cy cx)",
}
_AXES = {2: ("y", "x"), 3: ("z", "y", "x")}


def to_cells(images: Images, cell: Size) -> Cells:
    """Cut images into mask cells: (batch, cells, channels × voxels of a cell), cells in grid order."""
    names = _AXES[len(cell)]
    sizes = {f"c{name}": step for name, step in zip(names, cell, strict=True)}
    return rearrange(images, _SPLIT[len(cell)], **sizes)


def from_cells(cells: Cells, space: Size, cell: Size) -> Images:
    """Put cells together again; the inverse of `to_cells` for images of `space` voxels."""
    names = _AXES[len(cell)]
    before, after = _SPLIT[len(cell)].split(" -> ")
    sizes = {f"c{name}": step for name, step in zip(names, cell, strict=True)}
    sizes |= {f"g{name}": count for name, count in zip(names, grid_of(space, cell), strict=True)}
    return rearrange(cells, f"{after} -> {before}", **sizes)


@dataclass(frozen=True)
class NormalisedPixels:
    """Each cell minus its mean over its standard deviation, as in MAE (norm_pix_loss) and SparK.

    Attributes:
        cell: mask cell in voxels along each axis.
        eps: added to the unbiased variance.
    """

    cell: Size
    eps: float = 1e-6

    def __call__(self, images: Images) -> Cells:
        """Return the target, float32."""
        cells = to_cells(images.float(), self.cell)
        mean, deviation = self._statistics(cells)
        return (cells - mean) / deviation

    def picture(self, prediction: Cells, images: Images) -> Images:
        """Undo the normalisation of a prediction with the true cells' statistics, for people to look at."""
        mean, deviation = self._statistics(to_cells(images.float(), self.cell))
        return from_cells(prediction.float() * deviation + mean, tuple(images.shape[2:]), self.cell)

    def _statistics(self, cells: Cells) -> tuple[Tensor, Tensor]:
        variance = cells.var(dim=-1, keepdim=True, unbiased=True)
        return cells.mean(dim=-1, keepdim=True), (variance + self.eps).sqrt()
