"""`medmim masks`: masks × ratios with cards and a gallery, on a neutral grid or on the user's own scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from torch import Tensor

from medmim import files
from medmim.data.dataset.manifest import VolumeRecord, read_dataset
from medmim.data.formats.nifti import check_image, read_image
from medmim.data.loading.preprocess import preprocess
from medmim.data.loading.preprocessing_plan import plan_for, slice_axis
from medmim.data.loading.probe_images import stratified_subset
from medmim.errors import DataError, ShapeError, UsageError
from medmim.masks import Mask, build_mask, hidden_voxels, tissue_share
from medmim.masks.gallery import GalleryBackground, gallery
from medmim.masks.statistics import MaskStatistics, mask_statistics
from medmim.randomness import torch_stream
from medmim.shapes import Size, as_size
from medmim.stages.masks.analysis import IMAGES, MaskAnalysis, MaskAnalyzer, small
from medmim.training.evaluation.figures import to_png

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_NEUTRAL = {2: (14, 14), 3: (12, 12, 12)}
_CELLS = {2: 14, 3: 12}  # along the longest side of a scan
_DRAWS = 16  # masks that a card is averaged over
_VOXELS = 4_000_000  # of all scans that a card measures at once


@dataclass(frozen=True, eq=False)
class MaskBackground:
    """A scan that masks are drawn on.

    Attributes:
        image: float32 voxels in RAS order, 2D or 3D.
        label: as the image, or None.
        spacing_mm: distance between voxels along each axis.
        scans: of as many axes, for the analysis; none: the image itself.
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
    """One mask at one ratio: the first of its draws, the card of all of them, and an analysis on scans."""

    mask: str
    hidden: Tensor
    statistics: MaskStatistics
    analysis: MaskAnalysis | None


@dataclass(frozen=True)
class MaskGallery:
    """What the command made.

    Attributes:
        picture: the gallery.
        grid: cells along each axis.
        seed: of the draws.
        entries: mask by mask, ratio by ratio.
    """

    picture: Path
    grid: Size
    seed: int
    entries: tuple[GalleryEntry, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints; `hidden` holds 1 for hidden cells."""
        rows = [
            {
                "mask": entry.mask,
                "ratio": entry.statistics.requested_ratio,
                "card": entry.statistics.as_json(),
                "analysis": None if entry.analysis is None else entry.analysis.as_json(),
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
    scene: MaskBackground | None,
    seed: int,
    out: Path,
    weights: Path | None = None,
) -> MaskGallery:
    """Draw every mask at every ratio, measure them and write the gallery.

    Args:
        names: masks of the table, or module:callable.
        ratios: shares of cells to hide.
        dims: 2 or 3; None: as the scene, or as many as `grid` has numbers, or 2.
        grid: cells along each axis; None: 14×14 or 12×12×12, cells of equal millimetres on a scene.
        scene: what to draw them on; None: a neutral grid.
        seed: of the draws.
        out: PNG file.
        weights: of the encoder whose features the analysis of a scene compares; None: random ones.

    Raises:
        MedmimError: for masks, ratios or sizes that cannot work, before anything is written.
    """
    cells, scene = _fit(scene, grid, dims)
    chosen = [(name, build_mask(name, ratio=ratio)) for name in names for ratio in ratios]
    draws = _DRAWS if scene is None else max(1, min(_DRAWS, _VOXELS // scene.image.numel()))
    images, labels = _repeated(scene, draws)
    weight = None if images is None else tissue_share(images, cells)
    analyst = None if scene is None else MaskAnalyzer(scene.scans or [scene.image], cells, weights=weights)
    entries = []
    for name, mask in chosen:
        generator = torch_stream(seed, f"gallery {name}", round(mask.ratio * 1e6))
        hidden = mask.sample(draws, cells, generator=generator, weight=weight)
        measured = mask_statistics(hidden, requested_ratio=mask.ratio, images=images, labels=labels)
        judged = None if analyst is None else _judged(analyst, mask, cells, generator)
        entries.append(GalleryEntry(name, hidden[0], measured, judged))
    files.write_bytes(out, _picture(entries, ratios, cells, scene, seed))
    return MaskGallery(out, cells, seed, tuple(entries))


def background_from_dataset(root: Path, *, volume: str | None, dims: int | None) -> MaskBackground:
    """Read a volume of a dataset folder, prepared as networks see it, and up to 8 for the analysis.

    Args:
        root: dataset folder.
        volume: its id, then it is analysed alone; None: the first one with a label, or the first.
        dims: 2: the slice that holds most of the label, or the middle one.

    Raises:
        UsageError: if there is no such volume.
    """
    dataset = read_dataset(root)
    found = [row for row in dataset.volumes if volume in (None, row.id)]
    if not found:
        raise UsageError(
            f"--volume: no such volume among the {len(dataset.volumes)} of '{root}'; see its manifest"
        )
    scans = tuple(small(_scene(root, row, dims).image) for row in stratified_subset(found, IMAGES))
    return replace(_scene(root, next((row for row in found if row.label), found[0]), dims), scans=scans)


def _scene(root: Path, row: VolumeRecord, dims: int | None) -> MaskBackground:
    prepared = preprocess(root, row, plan_for([row], dims=3, size=None, multiple=(1, 1, 1)))
    label = None if prepared.label is None else prepared.label[0]
    scene = MaskBackground(prepared.image[0], label, tuple(map(float, voxel_sizes(prepared.affine))))
    return _slice(scene, prepared.slice_axis) if dims == 2 else scene


def background_from_file(path: Path, *, dims: int | None) -> MaskBackground:
    """Read a NIfTI file.

    Raises:
        DataError: if it cannot be used.
    """
    try:
        image = read_image(path)
        check_image(image)
    except DataError as error:
        raise DataError(f"--image: {error}", reason=error.reason) from error
    orientation = io_orientation(image.affine)
    affine = image.affine @ inv_ornt_aff(orientation, image.array.shape)
    array = np.ascontiguousarray(apply_orientation(image.array, orientation).astype(np.float32))
    scene = MaskBackground(torch.from_numpy(array), None, tuple(map(float, voxel_sizes(affine))))
    return _slice(scene, slice_axis(scene.spacing_mm)) if dims == 2 else scene


def _slice(scene: MaskBackground, axis: int) -> MaskBackground:
    index = _centre(scene)[axis]
    return MaskBackground(
        scene.image.select(axis, index),
        None if scene.label is None else scene.label.select(axis, index),
        tuple(step for other, step in enumerate(scene.spacing_mm) if other != axis),
    )


def _centre(scene: MaskBackground) -> tuple[int, ...]:
    """Return, along each axis, the slice that holds most of the label, or the middle one."""
    if scene.label is None or not bool((scene.label > 0).any()):
        return tuple(length // 2 for length in scene.image.shape)
    others = [[other for other in range(scene.dims) if other != axis] for axis in range(scene.dims)]
    return tuple(int((scene.label > 0).sum(dim=rest).argmax()) for rest in others)


def _fit(
    scene: MaskBackground | None, grid: Sequence[int] | None, dims: int | None
) -> tuple[Size, MaskBackground | None]:
    """Return the grid, and the scene cut at its borders to a whole number of voxels a cell."""
    given = len(grid) if grid is not None and len(grid) > 1 else None
    axes = scene.dims if scene is not None else dims or given or 2
    cells = None if grid is None else as_size(tuple(grid), axes, what="--grid")
    if scene is None:
        return cells or _NEUTRAL[axes], None
    space = tuple(scene.image.shape)
    cells = cells or _even_cells(scene)
    if any(length < count for length, count in zip(space, cells, strict=True)):
        raise ShapeError(
            f"--grid {','.join(map(str, cells))}: expected at most one cell a voxel, and the scan has "
            f"{'×'.join(map(str, space))}; use a coarser grid"
        )
    kept = [length // count * count for length, count in zip(space, cells, strict=True)]
    cut = tuple(
        slice((length - n) // 2, (length - n) // 2 + n) for length, n in zip(space, kept, strict=True)
    )
    label = None if scene.label is None else scene.label[cut]
    return cells, replace(scene, image=scene.image[cut], label=label)


def _even_cells(scene: MaskBackground) -> Size:
    """Return a grid whose cells are about equally long along each axis, in mm, but of 4 along thin axes."""
    space = scene.image.shape
    lengths = [length * step for length, step in zip(space, scene.spacing_mm, strict=True)]
    side = max(lengths) / _CELLS[scene.dims]
    voxels = [max(1, math.floor(side / step + 0.5)) for step in scene.spacing_mm]
    return tuple(max(min(4, length), length // step) for length, step in zip(space, voxels, strict=True))


def _judged(analyst: MaskAnalyzer, mask: Mask, cells: Size, generator: torch.Generator) -> MaskAnalysis:
    weight = tissue_share(analyst.images, cells)
    return analyst.judge(mask.sample(len(weight), cells, generator=generator, weight=weight))


def _repeated(scene: MaskBackground | None, draws: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the scan and its label once for each draw: (draws, 1, *space)."""
    if scene is None:
        return None, None
    shape = (draws, 1, *scene.image.shape)
    label = None if scene.label is None else scene.label.expand(shape)
    return scene.image.expand(shape), label


def _picture(
    entries: Sequence[GalleryEntry],
    ratios: Sequence[float],
    grid: Size,
    scene: MaskBackground | None,
    seed: int,
) -> bytes:
    each, shown = len(ratios), []
    for first in range(0, len(entries), each):
        row = entries[first : first + each]
        masks = [entry.hidden for entry in row]
        if scene is not None:
            masks = [hidden_voxels(mask.unsqueeze(0), tuple(scene.image.shape))[0, 0] for mask in masks]
        shown.append((row[0].mask, [mask.numpy() for mask in masks]))
    backdrop = (
        None if scene is None else GalleryBackground(scene.image.numpy(), scene.spacing_mm, _centre(scene))
    )
    titles = [f"{ratio * 100:g} %" for ratio in ratios]
    note = f"dark: hidden from the encoder · {'×'.join(map(str, grid))} cells · seed {seed}"
    return to_png(gallery(shown, titles, note=note, backdrop=backdrop))
