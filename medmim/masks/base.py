"""The base class of all masks: a rule ranks the cells of a grid, the highest are hidden; size of cells."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from medmim.arguments import check_fields, checked
from medmim.errors import ShapeError, UsageError, size_text
from medmim.masks.sampling import MaskRequest, Weights
from medmim.shapes import Hidden, Ranks, Size, as_size

_UNIT = "mm"  # of a mask cell
_USE = "give voxels, such as --cell 16"
Rounding = Literal["nearest", "up", "down"]


@checked
def hidden_count(cells: int, ratio: float, rounding: Rounding = "nearest") -> int:
    """Return how many of `cells` are hidden at `ratio`, with 1 ≤ count < cells; see `Mask.rounding`."""
    if cells < 2:
        raise ShapeError(
            f"a mask needs at least 2 cells, got {cells}: use a larger --size or a smaller --cell"
        )
    exact = round(cells * ratio, 9)
    counts = {"nearest": math.floor(exact + 0.5), "up": math.ceil(exact), "down": math.floor(exact)}
    return min(max(counts[rounding], 1), cells - 1)


@dataclass(frozen=True, kw_only=True)
class Mask(ABC):
    """A masking rule. Subclasses rank the cells; this class hides the exact count.

    Attributes:
        ratio: requested share of hidden cells; the actual share is `hidden_count / cells`.
        max_ratio: draw the share between `ratio` and this value once per batch, so that all samples of a
            batch hide equally many cells; None: always `ratio`.
        rounding: of the count: nearest, up or down. MAE rounds the visible count down and SimMIM the hidden
            count up: both are `up`.
        uses_tissue: whether the rule uses the weights given to `sample`.
    """

    ratio: float
    max_ratio: float | None = None
    rounding: Rounding = "nearest"

    uses_tissue: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the types of all fields, the ratio and its range."""
        check_fields(self)
        if not 0.0 < self.ratio < 1.0:
            raise UsageError(f"--ratio: expected a number between 0 and 1, both excluded, got {self.ratio:g}")
        if self.max_ratio is not None and not self.ratio < self.max_ratio < 1.0:
            raise UsageError(
                f"mask option max_ratio: expected a number between --ratio {self.ratio:g} and 1, "
                f"got {self.max_ratio:g}"
            )

    def hidden_counts(self, cells: int) -> tuple[int, ...]:
        """Return how many of `cells` are hidden: one number, or both ends of a range."""
        return tuple(hidden_count(cells, ratio, self.rounding) for ratio in self.ratios)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The requested ratio, or both ends of its range."""
        return (self.ratio,) if self.max_ratio is None else (self.ratio, self.max_ratio)

    @abstractmethod
    def rank(self, request: MaskRequest) -> Ranks:
        """Return a rank for each cell of each sample; the cells with the highest ranks are hidden first."""

    @checked
    def sample(
        self, batch: int, grid: Sequence[int], *, generator: torch.Generator, weight: Weights | None = None
    ) -> Hidden:
        """Draw one mask per sample.

        Args:
            generator: CPU generator; the only source of randomness.
            weight: share of tissue in each cell, (batch, *grid), at least 0; used by some rules only.

        Returns:
            Boolean (batch, *grid), True = hidden. Every sample hides the same number of cells:
            `hidden_count`, or a number drawn from the range up to `max_ratio`.

        Raises:
            ShapeError: for fewer than two cells, or for weights of another shape or below 0.
        """
        size = tuple(grid)
        if batch < 0 or len(size) not in (1, 2, 3) or min(size) < 0:
            raise ShapeError(
                "expected a batch of at least 0 and the numbers of cells along 2 or 3 axes, got "
                f"{batch} and {size}"
            )
        num_hidden = self._draw_count(math.prod(size), generator)
        _check_weight(weight, (batch, *size))
        rank = self.rank(MaskRequest(batch, size, num_hidden, generator, weight)).flatten(1)
        hidden = torch.zeros(rank.shape, dtype=torch.bool, device="cpu")  # also under another default device
        hidden.scatter_(1, rank.topk(num_hidden, dim=1, sorted=False).indices, value=True)
        return hidden.reshape(batch, *size)

    def _draw_count(self, cells: int, generator: torch.Generator) -> int:
        fewest, *most = self.hidden_counts(cells)
        if not most:
            return fewest
        return int(torch.randint(fewest, most[0] + 1, (), generator=generator, device="cpu"))


@checked
def hidden_voxels(hidden: Hidden, space: Sequence[int]) -> Bool[Tensor, "batch 1 *space"]:
    """Upsample a mask to voxels: each cell covers space / grid voxels along each axis."""
    grid = tuple(hidden.shape[1:])
    if len(grid) != len(space) or any(length % cells for length, cells in zip(space, grid, strict=True)):
        raise ShapeError(
            f"image of {size_text(space)} voxels does not divide into a grid of "
            f"{size_text(grid)} cells: expected a multiple of the grid along each axis"
        )
    voxels = hidden
    for axis, (length, cells) in enumerate(zip(space, grid, strict=True), start=1):
        voxels = voxels.repeat_interleave(length // cells, dim=axis)
    return voxels.unsqueeze(1)


def _check_weight(weight: Weights | None, shape: tuple[int, ...]) -> None:
    if weight is None:
        return
    if tuple(weight.shape) != shape or weight.device.type != "cpu":
        raise ShapeError(
            f"mask weights: expected shape {size_text(shape)} (batch and grid) on the CPU, "
            f"got {size_text(weight.shape)} on {weight.device.type}"
        )
    if not bool((weight >= 0).all() and weight.isfinite().all()):
        raise ShapeError("mask weights: expected finite numbers of at least 0, such as the share of tissue")


def cell_in_voxels(
    wanted: Sequence[int | str] | None, *, multiple: Size, voxel_mm: Sequence[float] | None
) -> Size:
    """Return the cell size in voxels; millimetres are rounded to a multiple of the encoder's total stride.

    Args:
        wanted: one size, or one per axis: voxels, or millimetres such as `8mm`; None: the total stride.
        multiple: total stride along each axis, the step to which millimetres are rounded.
        voxel_mm: voxel size along each axis in mm; None: unknown.

    Raises:
        ShapeError: for a wrong number of sizes, or a size below half the smallest possible cell.
        UsageError: for millimetres where the voxel size is unknown.
    """
    if wanted is None:
        return multiple
    dims = len(multiple)
    voxels = [size for size in wanted if isinstance(size, int)]
    if len(voxels) == len(wanted):
        return as_size(voxels, dims, what="--cell")
    words = ",".join(map(str, wanted))
    if voxel_mm is None:
        raise UsageError(
            f"--cell {words}: expected voxels of a known size in mm, which 2D images and augment=resized "
            f"do not have; {_USE}"
        )
    lengths = [float(str(size).removesuffix(_UNIT)) for size in wanted]
    if len(lengths) not in (1, dims):
        raise ShapeError(f"--cell {words}: expected one or {dims} sizes in mm, got {len(lengths)}")
    lengths = lengths * dims if len(lengths) == 1 else lengths
    smallest = [size * step for size, step in zip(voxel_mm, multiple, strict=True)]
    if any(length < least / 2 for length, least in zip(lengths, smallest, strict=True)):
        fitting = ",".join(f"{least:g}{_UNIT}" for least in smallest)
        raise ShapeError(
            f"--cell {words}: expected cells of about {fitting} or more, the encoder's total stride "
            f"{size_text(multiple)} in mm; use --cell {fitting}, or an encoder with a smaller stride"
        )
    steps = [max(round(length / least), 1) for length, least in zip(lengths, smallest, strict=True)]
    return tuple(count * step for count, step in zip(steps, multiple, strict=True))


def cell_words(cell: Size, voxel_mm: Sequence[float] | None) -> str:
    """Format a cell as `8×8×8 voxels = 8×8×9.6 mm`, without millimetres where the voxel size is unknown."""
    voxels = f"{size_text(cell)} voxels"
    if voxel_mm is None:
        return voxels
    lengths = (count * length for count, length in zip(cell, voxel_mm, strict=True))
    return f"{voxels} = {'×'.join(f'{length:.4g}' for length in lengths)} mm"
