"""The preprocessing plan: dimensions, patch, spacing, normalisation, mirroring, label codes; image facts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from nibabel.orientations import axcodes2ornt

from medmim.data.dataset.manifest import THIN, VolumeRecord
from medmim.data.loading.given_spacing import Spacing, given_spacing, largest_extents
from medmim.data.loading.normalisation import LEGACY, Normalisation
from medmim.errors import DataError, ShapeError, size_text
from medmim.shapes import Size, as_size, round_up

Dims = Literal[2, 3]
Regions = tuple[tuple[str, tuple[int, ...]], ...]
View = Literal["patch", "whole"]

_LARGEST_PATCH = {2: 192, 3: 64}
SPACING_TOLERANCE = 0.05
_MAX_PADDING = 0.99  # share of a patch outside the largest image


@dataclass(frozen=True)
class PreprocessingPlan:
    """Preprocessing of every volume; axes are RAS (right, anterior, superior). It is saved with the model.

    Attributes:
        dims: 2 (slices across the axis of largest spacing) or 3.
        size: patch size in voxels.
        spacing_mm: spacing after resampling along the three axes; None: training volumes are not resampled.
        common_mm: the spacing of all training volumes where they are not resampled because it is the same; a
            volume with another one, as in prediction, is resampled to it. None: no volume is.
        view: patch: patches of `size`; whole: images are resized to fit `size` whatever their spacing, 2D
            images with their aspect ratio, volumes axis by axis.
        normalisation: intensity rules by modality.
        mirror_axes: axes along which training and inference may mirror images.
        label_codes: value in label files of classes 1, 2, …; None: values are class indices.
        ignore_label: value in label files of voxels without a known label.
        label_classes: pairs of a value in label files and its class, where classes are merged or renumbered;
            None: as `label_codes`.
        regions: name and classes of each output channel, where channels are overlapping groups of classes
            (trained with sigmoid); class k is the only one whose last region is region k. None: channels are
            background and the classes.
    """

    dims: Dims
    size: Size
    spacing_mm: Spacing | None = None
    view: View = "patch"
    normalisation: Normalisation = Normalisation()  # noqa: RUF009 (frozen)
    mirror_axes: tuple[int, ...] = (0,)
    label_codes: tuple[int, ...] | None = None
    ignore_label: int | None = None
    label_classes: tuple[tuple[int, int], ...] | None = None
    regions: Regions | None = None
    common_mm: Spacing | None = None

    def channels(self, names: Mapping[int, str]) -> int:
        """Return the number of output channels of a network for these class names by index."""
        return max(names) + 1 if self.regions is None else len(self.regions)

    def as_json(self) -> dict[str, Any]:
        """Return the fields that a model's description stores, as JSON values."""
        return {
            "size": list(self.size),
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "common_mm": None if self.common_mm is None else list(self.common_mm),
            "view": self.view,
            "normalisation": self.normalisation.as_json(),
            "mirror_axes": list(self.mirror_axes),
            "label_codes": None if self.label_codes is None else list(self.label_codes),
            "ignore_label": self.ignore_label,
            "label_classes": None
            if self.label_classes is None
            else [list(one) for one in self.label_classes],
            "regions": None if self.regions is None else [[name, list(own)] for name, own in self.regions],
        }


def plan_of_model(description: Mapping[str, Any]) -> PreprocessingPlan:
    """Return the plan of a model; one of earlier versions normalises as it did when it was trained.

    Args:
        description: as `weights.json` contains it.
    """
    spacing, codes, rules = (description.get(key) for key in ("spacing_mm", "label_codes", "normalisation"))
    classes, regions, common = (description.get(key) for key in ("label_classes", "regions", "common_mm"))
    return PreprocessingPlan(
        description["spatial_dims"],
        tuple(description["size"]),
        None if spacing is None else tuple(spacing),
        description["view"],
        LEGACY if rules is None else Normalisation.model_validate(rules),
        tuple(description.get("mirror_axes", (0,))),
        None if codes is None else tuple(codes),
        description.get("ignore_label"),
        None if classes is None else tuple((value, number) for value, number in classes),
        None if regions is None else tuple((name, tuple(own)) for name, own in regions),
        None if common is None else tuple(common),
    )


def plan_for(
    volumes: Sequence[VolumeRecord],
    *,
    dims: Dims | None,
    size: Sequence[int] | None,
    multiple: Size | None = None,
    view: View = "patch",
    spacing_mm: Sequence[float] | None = None,
) -> PreprocessingPlan:
    """Choose dimensions, patch size and spacing where the user did not.

    Args:
        dims: 2, 3, or None: 3 unless most volumes have fewer than 16 slices.
        size: patch size in voxels, or None: the median volume, at most 64 (3D) or 192 (2D) voxels an axis.
        multiple: patch sizes must be multiples of this, for each axis; None: 16.
        view: as in `PreprocessingPlan`.
        spacing_mm: one spacing, or one per axis in RAS order; 0: not resampled. None: the median spacing if
            spacings differ by more than 5 %.

    Raises:
        DataError: if there are no volumes.
        ShapeError: if a given size is no multiple of `multiple`, or over 99 % of such a patch is padding; if
            `spacing_mm` has another length, or no image keeps two voxels at it.
    """
    if not volumes:
        raise DataError("no volumes to train on: ingest data first, or widen the splits", reason="no_volumes")
    shapes = np.array([in_ras(volume, volume.shape) for volume in volumes])
    spacings = np.array([in_ras(volume, volume.spacing_mm) for volume in volumes])
    chosen: Dims = dims or (2 if np.median(shapes.min(axis=1)) < THIN else 3)
    step = multiple or (16,) * chosen
    thick = np.array([slice_axis(spacing) for spacing in spacings])
    if size is None:
        seen = shapes if chosen == 3 else without_axis(shapes, thick)
        median = tuple(int(length) for length in np.median(seen, axis=0))
        limit = tuple(_LARGEST_PATCH[chosen] // s * s for s in step)
        patch = tuple(min(a, max(b, s)) for a, b, s in zip(round_up(median, step), limit, step, strict=True))
    else:
        patch = as_size(size, chosen, what="--size")
        if any(length % s for length, s in zip(patch, step, strict=True)):
            nearest = ",".join(map(str, round_up(patch, step)))
            raise ShapeError(
                f"--size {','.join(map(str, patch))}: expected multiples of {','.join(map(str, step))} "
                f"(the encoder's total stride and the mask cell); use --size {nearest}"
            )
    spacing: Spacing | None = None
    common: Spacing | None = None
    if view == "patch" and spacing_mm is not None:
        spacing = given_spacing(spacing_mm, largest_extents(shapes, spacings, thick if chosen == 2 else None))
    elif view == "patch":
        spacing, common = _median_spacing(spacings, thick if chosen == 2 else None)
        common = None if any(one.flags.get("spacing") == "unknown" for one in volumes) else common
    plan = PreprocessingPlan(chosen, patch, spacing, view, common_mm=common)
    if size is not None and view == "patch":
        _refuse_padding(volumes, plan, step)
    return plan


def padding_share(image: Sequence[float] | np.ndarray, patch: Size) -> float:
    """Return the share of a patch that lies outside an image of this size."""
    return 1 - float(np.prod(np.minimum(image, patch) / patch))


def image_sizes(volumes: Sequence[VolumeRecord], plan: PreprocessingPlan) -> np.ndarray:
    """Return the size of each volume, or of its slices, in voxels after resampling."""
    sizes = np.array([in_ras(volume, volume.shape) for volume in volumes])
    spacings = np.array([in_ras(volume, volume.spacing_mm) for volume in volumes])
    if plan.spacing_mm is not None:
        sizes = np.rint(sizes * spacings / plan.spacing_mm)
    return sizes if plan.dims == 3 else without_axis(sizes, np.array([slice_axis(one) for one in spacings]))


def _refuse_padding(volumes: Sequence[VolumeRecord], plan: PreprocessingPlan, step: Size) -> None:
    largest = image_sizes(volumes, plan).max(axis=0)
    if (share := padding_share(largest, plan.size)) > _MAX_PADDING:
        shown = [int(length) for length in largest]
        fitting = round_up(np.minimum(shown, plan.size).tolist(), step)
        raise ShapeError(
            f"--size {','.join(map(str, plan.size))}: {math.floor(1e4 * share) / 100} % of such a patch is "
            f"padding, as no image is larger than {size_text(shown)} voxels; use --size "
            f"{','.join(map(str, fitting))}"
        )


def voxel_mm(volumes: Sequence[VolumeRecord], plan: PreprocessingPlan) -> tuple[float, ...] | None:
    """Return the voxel size of patches in mm; None if the spacing of a volume is unknown.

    Args:
        plan: their preprocessing; without resampling, the median voxel size is returned.
    """
    if any(volume.flags.get("spacing") == "unknown" for volume in volumes):
        return None
    spacings = np.array([in_ras(volume, volume.spacing_mm) for volume in volumes])
    if plan.dims == 2:
        spacings = without_axis(spacings, np.array([slice_axis(spacing) for spacing in spacings]))
    if plan.spacing_mm is not None:
        return plan.spacing_mm[: plan.dims]  # in 2D, one number for both axes
    return tuple(float(length) for length in np.median(spacings, axis=0))


def slice_axis(spacing_mm: Sequence[float] | np.ndarray) -> int:
    """Return the axis of largest spacing, across which 2D slices are cut; for ties the last one.

    Args:
        spacing_mm: spacing along right, anterior, superior; compared to a micrometre.
    """
    rounded = np.round(np.asarray(spacing_mm, dtype=float), 3)
    return 2 if rounded[2] == rounded.max() else int(rounded.argmax())


def in_ras(volume: VolumeRecord, values: Sequence[int] | Sequence[float]) -> list[float]:
    """Reorder values given for array axes to right, anterior, superior."""
    order = axcodes2ornt(tuple(volume.orientation))[:, 0].astype(int)
    placed = [0.0] * len(order)
    for axis, target in enumerate(order):
        placed[target] = float(values[axis])
    return placed


def without_axis(values: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Remove one entry of each row."""
    keep = np.arange(values.shape[1])[None] != axis[:, None]
    return np.asarray(values[keep].reshape(len(values), -1))


def _median_spacing(spacings: np.ndarray, thick: np.ndarray | None) -> tuple[Spacing | None, Spacing | None]:
    """Return the median spacing if volumes differ, else None, and as the second value if they do not."""
    median = np.median(spacings, axis=0)
    if thick is not None:  # in 2D, the slice axis is not resampled
        spacings = without_axis(spacings, thick)
        median = np.full(3, np.median(spacings))
    differs = np.abs(spacings / median[: spacings.shape[1]] - 1) > SPACING_TOLERANCE
    found = (float(median[0]), float(median[1]), float(median[2]))
    return (found, None) if differs.any() else (None, found)


def target_spacing(volume: VolumeRecord, plan: PreprocessingPlan) -> Spacing | None:
    """Return the spacing to which a volume is resampled, in 2D within slices; None: it is not resampled."""
    if plan.spacing_mm is not None or plan.common_mm is None or volume.flags.get("spacing") == "unknown":
        return plan.spacing_mm
    own = np.array(in_ras(volume, volume.spacing_mm))
    off = np.abs(own / plan.common_mm - 1)
    off = np.delete(off, slice_axis(own)) if plan.dims == 2 else off
    return plan.common_mm if off.max() > SPACING_TOLERANCE else None


@dataclass(frozen=True)
class TrainingFacts:
    """Properties of the training images that a recipe depends on.

    Attributes:
        images: number of images.
        dims: 2 or 3.
        shape, spacing_mm: medians in voxels and mm: along right, anterior, superior, or in 2D in a slice.
        channels: image channels.
    """

    images: int
    dims: Dims
    shape: Size
    spacing_mm: tuple[float, ...]
    channels: int = 1


def facts_of(volumes: Sequence[VolumeRecord], *, dims: Dims | None, channels: int = 1) -> TrainingFacts:
    """Return the facts of training images, from the manifest alone.

    Args:
        volumes: training images, at least one.
        dims: 2, 3, or None: as `plan_for` chooses.

    Raises:
        DataError: if there are no images.
    """
    chosen = plan_for(volumes, dims=dims, size=None).dims
    shapes, spacings = (
        np.array([in_ras(one, values) for one, values in zip(volumes, of_all, strict=True)], dtype=float)
        for of_all in ([one.shape for one in volumes], [one.spacing_mm for one in volumes])
    )
    if chosen == 2:
        across = np.array([slice_axis(spacing) for spacing in spacings])
        shapes, spacings = without_axis(shapes, across), without_axis(spacings, across)
    shape = tuple(int(length) for length in np.median(shapes, axis=0))
    spacing = tuple(float(edge) for edge in np.median(spacings, axis=0))
    return TrainingFacts(len(volumes), chosen, shape, spacing, channels)
