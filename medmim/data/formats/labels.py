"""Label volumes: class numbers on the grid of their image, or resampled to it on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import scipy
from jaxtyping import Float64, Integer, Shaped

from medmim.data.formats.geometry import corner_points
from medmim.data.formats.images import as_mask, is_lossy, is_picture, label_colours, read_picture
from medmim.data.formats.nifti import Image, LoadedImage, count_frames, load_nifti
from medmim.data.formats.volumes import is_nifti, load_volume
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError, counted, size_text

MAX_OFFSET_VOXELS = 0.5
MAX_LABEL = 65535
_MAX_CHANNELS = 256
_MAX_EDGE_VOXELS = 1_500_000  # looked at around the middle of a label: enough for a warning, and quick
_MIN_EDGE_VOXELS = 4
_MAX_VALUES = 256
INTEGER_TOLERANCE = 1e-3
NOT_ANNOTATED = 255  # code of voxels that a negative ignore value marks as not annotated
MAX_CLASSES = 128  # TotalSegmentator has 117
_FEW_CLASSES = 32  # that a label of any size may have; more need enough voxels
MIN_INSIDE = 0.99  # fraction of a label's foreground that must lie inside the image


def load_label(path: Path, *, spacing_mm: float, ignore_label: int | None = None) -> LoadedImage:
    """Read a label file; one-hot channels along a fourth axis become class numbers.

    Channels that cover every voxel include the background: the first one, if it is the largest. Otherwise
    the first channel is class 1.

    Raises:
        DataError: if it cannot be used, also with reason lossy_label, label_overlap if channels overlap, or
            label_one_hot if the background channel is ambiguous.
    """
    count = count_frames(str(path)) if is_nifti(path) else 1
    if count == 1:
        if not is_picture(path):
            return load_volume(path, spacing_mm=spacing_mm, label=True)
        picture, _ = read_picture(path, spacing_mm, label=True)
        classes, changed = as_mask(
            picture.array, lossy=is_lossy(path), white_ignored=ignore_label == NOT_ANNOTATED
        )
        colours = label_colours(path) if classes is picture.array else {}
        return LoadedImage(Image(classes, picture.affine), ("label_binarised",) if changed else (), colours)
    if count > _MAX_CHANNELS:
        raise DataError(
            f"label of {count} frames: expected class numbers, or up to {_MAX_CHANNELS} one-hot channels; "
            "split it into one file per time point",
            reason="not_3d",
        )
    channels = [load_nifti(path, frame=frame) for frame in range(count)]
    masks = [_as_classes(one.image.array) for one in channels]
    total = np.sum(masks, axis=0, dtype=np.int64)
    if max(int(mask.max()) for mask in masks) > 1:
        raise _not_integral("several frames of class numbers")
    if total.max() > 1:
        raise DataError(
            "one-hot label: expected channels without overlap, got "
            f"{counted(int((total > 1).sum()), 'voxel')} in several; merge them yourself",
            reason="label_overlap",
        )
    first = 1 - int(total.min())  # with a channel for the background, classes begin at 0
    sizes = [int(mask.sum()) for mask in masks]
    if first == 0 and sizes[0] < max(sizes):
        raise DataError(
            "one-hot label: expected the background as first channel, got a larger one; save class numbers",
            reason="label_one_hot",
        )
    array = np.sum([mask.astype(np.uint16) * number for number, mask in enumerate(masks, first)], axis=0)
    head = channels[0]
    image = Image(np.asarray(array, np.uint16), head.image.affine)
    return LoadedImage(image, (*head.repairs, "label_one_hot"), {**head.measured, "channels": float(count)})


def stored_ignore_label(value: int | None) -> int | None:
    """Return the code that stores an ignore value: `NOT_ANNOTATED` for a negative one."""
    return NOT_ANNOTATED if value is not None and value < 0 else value


def mark_not_annotated(label: Image, value: int) -> Image:
    """Return the label with its ignore value as a valid code: a negative one becomes `NOT_ANNOTATED`.

    Raises:
        DataError: with reason ignore_label_taken if the label has that code as a class.
    """
    if value >= 0:
        return label
    if (label.array == NOT_ANNOTATED).any():
        raise DataError(
            f"label: expected no class {NOT_ANNOTATED}, which stores the ignore value {value}; renumber it",
            reason="ignore_label_taken",
        )
    marked = np.isclose(label.array, value, rtol=0.0, atol=INTEGER_TOLERANCE)
    return Image(
        np.where(marked, np.asarray(NOT_ANNOTATED, np.result_type(label.array, np.int16)), label.array),
        label.affine,
    )


def fit_label(label: Image, image: Image) -> Image:
    """Return the label as uint8 or uint16 with the image's axes and affine.

    Axes are flipped and permuted where the two files store the same grid in different order; nothing is
    resampled.

    Args:
        label: class numbers, 0 for background.

    Raises:
        DataError: with reason label_shape, label_offset, label_not_integral or
            label_out_of_range.
    """
    label = _reorient(label, image.affine)
    if label.array.shape != image.array.shape:
        raise DataError(
            f"label of {size_text(label.array.shape)} voxels on an image of {size_text(image.array.shape)}: "
            "expected equal shapes after the axes are aligned; use the label of this image",
            reason="label_shape",
        )
    _check_offset(label, image)
    return Image(_as_classes(label.array), image.affine)


def resample_label(label: Image, image: Image) -> Image:
    """Return the label on the image's grid by nearest-neighbour interpolation.

    Args:
        label: class numbers, 0 for background, on any grid.

    Raises:
        DataError: with reason label_not_integral, label_out_of_range, or label_outside_image, if foreground
            lies outside the image.
    """
    classes = Image(_as_classes(label.array), label.affine)
    inside = fraction_inside(classes, image)
    if inside < MIN_INSIDE:
        raise DataError(
            f"{1 - inside:.0%} of the label lies outside its image, expected less than "
            f"{1 - MIN_INSIDE:.0%}; check that both come from the same study",
            reason="label_outside_image",
        )
    to_label = np.linalg.inv(label.affine) @ image.affine
    array = scipy.ndimage.affine_transform(
        classes.array,
        to_label[:3, :3],
        to_label[:3, 3],
        output_shape=image.array.shape,
        order=0,
        mode="grid-constant",  # "constant" would drop the outer half of border voxels
    )
    return Image(array, image.affine)


def store_label(fitted: Image, target: Path) -> dict[str, Any]:
    """Write a label on its image's grid; return its manifest entries and `values`, its class numbers."""
    values = np.unique(fitted.array)
    return {**write_volume(fitted, target), "values": [int(value) for value in values[:_MAX_VALUES] if value]}


def fraction_inside(label: Image, image: Image) -> float:
    """Return the fraction of the label's foreground inside the image's field of view; 1 if it is empty."""
    places = np.argwhere(label.array)
    if not len(places):
        return 1.0
    to_image = np.linalg.inv(image.affine) @ label.affine
    indices = places @ to_image[:3, :3].T + to_image[:3, 3]
    upper = np.array(image.array.shape) - 1 + MAX_OFFSET_VOXELS
    return float(((indices >= -MAX_OFFSET_VOXELS) & (indices <= upper)).all(axis=1).mean())


def _reorient(label: Image, affine: Float64[np.ndarray, "4 4"]) -> Image:
    """Flip and permute the label's axes so that each runs along the nearest axis of `affine`.

    The two grids are compared with each other, not with the body: two obliques near 45° still agree.
    """
    order = nib.orientations.io_orientation(np.linalg.inv(affine) @ label.affine)
    if np.isnan(order).any():
        raise _offset_error("axes that do not correspond one to one")
    back = nib.orientations.inv_ornt_aff(order, label.array.shape)
    return Image(nib.orientations.apply_orientation(label.array, order), label.affine @ back)


def _check_offset(label: Image, image: Image) -> None:
    """Compare the grids at all eight corners, where two affine grids differ most."""
    shape = image.array.shape
    offset_mm = corner_points(shape, label.affine) - corner_points(shape, image.affine)
    offset_voxels = np.linalg.norm(offset_mm @ np.linalg.inv(image.affine)[:3, :3].T, axis=1)
    if not (offset_voxels <= MAX_OFFSET_VOXELS).all():
        worst = int(np.argmax(offset_voxels))
        distance = float(np.linalg.norm(offset_mm[worst]))
        raise _offset_error(f"{distance:.2f} mm ({offset_voxels[worst]:.2f} voxels) at a corner")


def _as_classes(array: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "x y z"]:
    if other := other_values(array):
        raise _not_integral(f"other values, such as {', '.join(f'{value:g}' for value in other)}")
    array = np.rint(array) if array.dtype.kind == "f" else array
    if array.min() < 0 or array.max() > MAX_LABEL:
        wrong = np.unique(array[(array < 0) | (array > MAX_LABEL)])[:4]
        raise DataError(
            f"label: expected values from 0 to {MAX_LABEL}, got {', '.join(f'{one:.0f}' for one in wrong)}; "
            "renumber them, or pass --ignore-label if they mark voxels that nobody annotated",
            reason="label_out_of_range",
        )
    return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)


def other_values(array: Shaped[np.ndarray, "x y z"]) -> list[float]:
    """Return the first four values of an array that are no integers within the tolerance."""
    if array.dtype.kind != "f":
        return []
    with np.errstate(invalid="ignore"):  # infinity
        wrong = ~(np.abs(array - np.rint(array)) <= INTEGER_TOLERANCE)
    return [float(value) for value in np.unique(array[wrong])[:4]]


def _offset_error(got: str) -> DataError:
    return DataError(
        f"label is shifted against its image: expected at most {MAX_OFFSET_VOXELS:g} voxels, got {got}; "
        "check that both come from the same series",
        reason="label_offset",
    )


def _not_integral(got: str) -> DataError:
    return DataError(
        f"label: expected integers from 0 to {MAX_LABEL}, got {got}; export class numbers, not probabilities",
        reason="label_not_integral",
    )


def few_values(array: Shaped[np.ndarray, "x y z"]) -> tuple[int, ...] | None:
    """Return the values of an array if they are few whole numbers, as in a label, else None."""
    middle = np.unique(array[..., array.shape[-1] // 2])
    if len(middle) > MAX_CLASSES:
        return None
    values = np.unique(array)
    few = len(values) <= _FEW_CLASSES or (len(values) <= MAX_CLASSES and array.size > 1000 * len(values))
    if not few or not np.isfinite(values).all() or not np.allclose(values, np.rint(values), atol=1e-3):
        return None
    whole = np.rint(values).astype(np.int64)
    return tuple(whole.tolist()) if whole.min() >= 0 and whole.max() <= MAX_LABEL else None


def class_numbers(array: Shaped[np.ndarray, "x y z"]) -> tuple[int, ...] | None:
    """Return the class numbers of an array that can be a label with background, else None."""
    values = few_values(array)
    return tuple(one for one in values if one) if values and not values[0] else None


def values_at_edges(label: Integer[np.ndarray, "x y z"]) -> tuple[int, ...]:
    """Return the values that occur only between a lower and a higher neighbour.

    Interpolation leaves such values at the edge of a class. A class of its own has them only if it is nowhere
    three voxels wide.

    Args:
        label: class numbers from 0 to 65535.
    """
    planes = max(3, _MAX_EDGE_VOXELS // label[..., 0].size)
    start = max(0, (label.shape[2] - planes) // 2)
    part = label[..., start : start + planes]
    if len(np.unique(part)) < 3:
        return ()
    above = part > scipy.ndimage.minimum_filter(part, 3)
    between = above & (part < scipy.ndimage.maximum_filter(part, 3))
    inner = slice(1, -1) if part.shape[2] < label.shape[2] else slice(None)  # outer planes lack a neighbour
    counts = np.bincount(part[..., inner].ravel())
    at_edges = np.bincount(part[..., inner][between[..., inner]], minlength=len(counts))
    return tuple(np.flatnonzero((counts >= _MIN_EDGE_VOXELS) & (at_edges == counts)).tolist())
