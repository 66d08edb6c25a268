"""`medmim masks`: statistics and a gallery of masks × ratios, on a neutral grid or on the user's scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor

from medmim import files
from medmim.data.dataset.manifest import VolumeRecord, read_dataset
from medmim.data.formats.geometry import nearest_ras
from medmim.data.formats.nifti import check_image, read_image
from medmim.data.loading.preprocess import preprocess
from medmim.data.loading.preprocessing_plan import plan_for, slice_axis
from medmim.data.loading.probe_images import stratified_subset
from medmim.errors import DataError, ShapeError, UsageError, size_text
from medmim.masks import Mask, build_mask, hidden_voxels, tissue_share
from medmim.masks.gallery import GalleryBackground, gallery
from medmim.masks.statistics import MaskStatistics, MaskVariety, mask_statistics, mask_variety
from medmim.randomness import torch_stream
from medmim.shapes import Size, as_size
from medmim.stages.masks.analysis import IMAGES, MaskAnalysis, MaskAnalyzer, small
from medmim.training.evaluation.figures import to_png

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_NEUTRAL = {2: (14, 14), 3: (12, 12, 12)}
_CELLS = {2: 14, 3: 12}  # along the longest side of a scan
_DRAWS = 16  # masks per statistic
_VOXELS = 4_000_000  # voxels per statistic, over all masks


@dataclass(frozen=True, eq=False)
class MaskBackground:
    """A scan on which masks are drawn.

    Attributes:
        image: float32 voxels in RAS order, 2D or 3D.
        scans: scans of the same dimension for the analysis; empty: the image itself.
    """

    image: Tensor
    label: Tensor | None
    spacing_mm: tuple[float, ...]
    scans: tuple[Tensor, ...] = ()

    @property
    def dims(self) -> int:
        """Number of axes."""
        return self.image.dim()


@dataclass(frozen=True, eq=False)
class GalleryEntry:
    """One mask at one ratio.

    Attributes:
        hidden: its first draw, (*grid).
        analysis: the analysis on scans; None on a neutral grid.
        variety: number of different masks, and drawing time.
    """

    mask: str
    hidden: Tensor
    statistics: MaskStatistics
    analysis: MaskAnalysis | None
    variety: MaskVariety


@dataclass(frozen=True)
class MaskGallery:
    """The result of `medmim masks`.

    Attributes:
        entries: ordered by mask, then ratio.
    """

    picture: Path
    grid: Size
    seed: int
    entries: tuple[GalleryEntry, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints; `hidden` is 1 for hidden cells."""
        rows = [
            {
                "mask": entry.mask,
                "ratio": entry.statistics.requested_ratio,
                "card": entry.statistics.as_json(),
                "analysis": None if entry.analysis is None else entry.analysis.as_json(),
                **asdict(entry.variety),
                "hidden": entry.hidden.int().tolist(),
            }
            for entry in self.entries
        ]
        return {"picture": str(self.picture), "grid": list(self.grid), "seed": self.seed, "masks": rows}


def draw_masks(
    names: Sequence[str],
    ratios: Sequence[float],
    *,
    dims: int | None,
    grid: Sequence[int] | None,
    background: MaskBackground | None,
    seed: int,
    out: Path,
    weights: Path | None = None,
) -> MaskGallery:
    """Draw every mask at every ratio, compute statistics and write the gallery.

    Args:
        names: masks of the table, or module:callable.
        dims: 2 or 3; None: as the background, or as `grid`, or 2.
        grid: cells along each axis; None: 14×14 or 12×12×12, or cells of equal millimetres on a background.
        background: scan to draw on; None: a neutral grid.
        weights: weights of the encoder of the analysis; None: random weights.

    Raises:
        MedmimError: for invalid masks, ratios or sizes, before anything is written.
    """
    cells, background = _fit(background, grid, dims)
    chosen = [(name, build_mask(name, ratio=ratio)) for name in names for ratio in ratios]
    draws = _DRAWS if background is None else max(1, min(_DRAWS, _VOXELS // background.image.numel()))
    images, labels = _repeated(background, draws)
    weight = None if images is None else tissue_share(images, cells)
    analyzer = (
        None
        if background is None
        else MaskAnalyzer(background.scans or [background.image], cells, weights=weights)
    )
    entries = []
    for name, mask in chosen:
        generator = torch_stream(seed, f"gallery {name}", round(mask.ratio * 1e6))
        hidden = mask.sample(draws, cells, generator=generator, weight=weight)
        statistics = mask_statistics(hidden, requested_ratio=mask.ratio, images=images, labels=labels)
        analysis = None if analyzer is None else _analyze(analyzer, mask, cells, generator)
        entries.append(
            GalleryEntry(name, hidden[0], statistics, analysis, mask_variety(mask, cells, seed=seed))
        )
    files.write_bytes(out, _picture(entries, ratios, cells, background, seed))
    return MaskGallery(out, cells, seed, tuple(entries))


def background_from_dataset(root: Path, *, volume: str | None, dims: int | None) -> MaskBackground:
    """Read a preprocessed volume of a dataset folder, and up to 8 volumes for the analysis.

    Without an id, it is the first with a label, or the first; in 2D the slice with most of the label.
    """
    dataset = read_dataset(root)
    found = [row for row in dataset.volumes if volume in (None, row.id)]
    if not found:
        raise UsageError(
            f"--volume: no volume '{volume}' among the {len(dataset.volumes)} of '{root}'; see its manifest"
        )
    scans = tuple(small(_read_background(root, row, dims).image) for row in stratified_subset(found, IMAGES))
    return replace(
        _read_background(root, next((row for row in found if row.label), found[0]), dims), scans=scans
    )


def _read_background(root: Path, row: VolumeRecord, dims: int | None) -> MaskBackground:
    prepared = preprocess(root, row, plan_for([row], dims=3, size=None, multiple=(1, 1, 1)))
    label = None if prepared.label is None else prepared.label[0]
    background = MaskBackground(prepared.image[0], label, tuple(map(float, voxel_sizes(prepared.affine))))
    return _slice(background, prepared.slice_axis) if dims == 2 else background


def background_from_file(path: Path, *, dims: int | None) -> MaskBackground:
    """Read a NIfTI file."""
    try:
        image = read_image(path)
        check_image(image)
    except DataError as error:
        raise DataError(f"--image: {error}", reason=error.reason) from error
    turned = nearest_ras(image)
    array = np.ascontiguousarray(turned.array.astype(np.float32))
    background = MaskBackground(torch.from_numpy(array), None, tuple(turned.spacing_mm))
    return _slice(background, slice_axis(background.spacing_mm)) if dims == 2 else background


def _slice(background: MaskBackground, axis: int) -> MaskBackground:
    index = _centre(background)[axis]
    return MaskBackground(
        background.image.select(axis, index),
        None if background.label is None else background.label.select(axis, index),
        tuple(step for other, step in enumerate(background.spacing_mm) if other != axis),
    )


def _centre(background: MaskBackground) -> tuple[int, ...]:
    """Return, along each axis, the slice with most of the label, or the middle one."""
    if background.label is None or not bool((background.label > 0).any()):
        return tuple(length // 2 for length in background.image.shape)
    others = [[other for other in range(background.dims) if other != axis] for axis in range(background.dims)]
    return tuple(int((background.label > 0).sum(dim=rest).argmax()) for rest in others)


def _fit(
    background: MaskBackground | None, grid: Sequence[int] | None, dims: int | None
) -> tuple[Size, MaskBackground | None]:
    """Return the grid, and the background cropped to a whole number of voxels per cell."""
    given = len(grid) if grid is not None and len(grid) > 1 else None
    axes = background.dims if background is not None else dims or given or 2
    cells = None if grid is None else as_size(tuple(grid), axes, what="--grid")
    if background is None:
        return cells or _NEUTRAL[axes], None
    space = tuple(background.image.shape)
    cells = cells or _even_cells(background)
    if any(length < count for length, count in zip(space, cells, strict=True)):
        raise ShapeError(
            f"--grid {','.join(map(str, cells))}: expected at most one cell per voxel, and the scan has "
            f"{size_text(space)}; use a coarser grid"
        )
    kept = [length // count * count for length, count in zip(space, cells, strict=True)]
    cut = tuple(
        slice((length - n) // 2, (length - n) // 2 + n) for length, n in zip(space, kept, strict=True)
    )
    label = None if background.label is None else background.label[cut]
    return cells, replace(background, image=background.image[cut], label=label)


def _even_cells(background: MaskBackground) -> Size:
    """Return a grid of cells of about equal millimetres, with at least 4 cells along thin axes."""
    space = background.image.shape
    lengths = [length * step for length, step in zip(space, background.spacing_mm, strict=True)]
    side = max(lengths) / _CELLS[background.dims]
    voxels = [max(1, math.floor(side / step + 0.5)) for step in background.spacing_mm]
    return tuple(max(min(4, length), length // step) for length, step in zip(space, voxels, strict=True))


def _analyze(analyzer: MaskAnalyzer, mask: Mask, cells: Size, generator: torch.Generator) -> MaskAnalysis:
    weight = tissue_share(analyzer.images, cells)
    return analyzer.analyze(mask.sample(len(weight), cells, generator=generator, weight=weight))


def _repeated(background: MaskBackground | None, draws: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the scan and its label repeated for each draw: (draws, 1, *space)."""
    if background is None:
        return None, None
    shape = (draws, 1, *background.image.shape)
    label = None if background.label is None else background.label.expand(shape)
    return background.image.expand(shape), label


def _picture(
    entries: Sequence[GalleryEntry],
    ratios: Sequence[float],
    grid: Size,
    background: MaskBackground | None,
    seed: int,
) -> bytes:
    each, shown = len(ratios), []
    for first in range(0, len(entries), each):
        row = entries[first : first + each]
        masks = [entry.hidden for entry in row]
        if background is not None:
            masks = [hidden_voxels(mask.unsqueeze(0), tuple(background.image.shape))[0, 0] for mask in masks]
        shown.append((row[0].mask, [mask.numpy() for mask in masks]))
    backdrop = (
        None
        if background is None
        else GalleryBackground(background.image.numpy(), background.spacing_mm, _centre(background))
    )
    titles = [f"{ratio * 100:g} %" for ratio in ratios]
    note = f"dark: hidden from the encoder · {size_text(grid)} cells · seed {seed}"
    return to_png(gallery(shown, titles, note=note, backdrop=backdrop))
