"""Label volumes: whole numbers on their image's own grid, or brought to it on request."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import scipy
from jaxtyping import Float64, Shaped

from medmim.data.formats.nifti import Image
from medmim.data.formats.nifti_header import show
from medmim.errors import DataError

MAX_OFFSET_VOXELS = 0.5
MAX_LABEL = 65535
MIN_INSIDE = 0.99  # of a label's foreground, for it to belong to the image it is resampled to


def fit_label(label: Image, image: Image) -> Image:
    """Return the label as uint8 or uint16 on the image's axes and affine.

    Axes are flipped and exchanged where the two files store the same grid in another order; nothing is ever
    resampled, so every voxel keeps its value.

    Args:
        label: class numbers, 0 for background.
        image: the volume that was labelled.

    Raises:
        DataError: with reason label_shape, label_offset or label_not_integral.
    """
    label = _reorient(label, image.affine)
    if label.array.shape != image.array.shape:
        raise DataError(
            f"label of {show(label.array.shape)} voxels on an image of {show(image.array.shape)}: expected "
            "equal shapes once the axes agree; label this image itself",
            reason="label_shape",
        )
    _check_offset(label, image)
    return Image(_as_classes(label.array), image.affine)


def resample_label(label: Image, image: Image) -> Image:
    """Return the label on the image's grid: each voxel takes the class of the nearest label voxel in space.

    Args:
        label: class numbers, 0 for background, on any grid.
        image: the volume that was labelled.

    Raises:
        DataError: with reason label_not_integral, or label_outside_image if foreground lies outside of the
            image: then the two do not belong together.
    """
    classes = Image(_as_classes(label.array), label.affine)
    inside = share_inside(classes, image)
    if inside < MIN_INSIDE:
        raise DataError(
            f"{1 - inside:.0%} of the label lies outside of its image, expected less than "
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
        mode="grid-constant",  # plain "constant" drops the outer half of the label's border voxels
    )
    return Image(array, image.affine)


def share_inside(label: Image, image: Image) -> float:
    """Return the share of the label's foreground that lies within the image's field of view; 1 if empty."""
    places = np.argwhere(label.array)
    if not len(places):
        return 1.0
    to_image = np.linalg.inv(image.affine) @ label.affine
    indices = places @ to_image[:3, :3].T + to_image[:3, 3]
    half = MAX_OFFSET_VOXELS
    inside = (indices >= -half) & (indices <= np.array(image.array.shape) - 1 + half)
    return float(inside.all(axis=1).mean())


def _reorient(label: Image, affine: Float64[np.ndarray, "4 4"]) -> Image:
    """Flip and exchange the label's axes so that each runs along the nearest axis of `affine`.

    Axes are compared between the two grids, not with the body: two obliques near 45° still agree.
    """
    between = np.linalg.inv(affine) @ label.affine
    order = nib.orientations.io_orientation(between)
    if np.isnan(order).any():
        raise _offset_error("its axes do not map to the image's axes one to one")
    back = nib.orientations.inv_ornt_aff(order, label.array.shape)
    return Image(nib.orientations.apply_orientation(label.array, order), label.affine @ back)


def _check_offset(label: Image, image: Image) -> None:
    """Compare the grids at all eight corners; between corners they can only differ less."""
    ends = [(0, length - 1) for length in image.array.shape]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], dtype=np.float64).T
    offset_mm = (label.affine - image.affine) @ corners
    offset_voxels = np.linalg.norm((np.linalg.inv(image.affine) @ offset_mm)[:3], axis=0)
    if not (offset_voxels <= MAX_OFFSET_VOXELS).all():
        worst = int(np.argmax(offset_voxels))
        distance = float(np.linalg.norm(offset_mm[:3, worst]))
        raise _offset_error(f"got {distance:.2f} mm ({offset_voxels[worst]:.2f} voxels) at a corner")


def _as_classes(array: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "x y z"]:
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(array, np.rint(array))):
        raise _not_integral("fractions, NaN or infinity")
    if array.min() < 0 or array.max() > MAX_LABEL:
        raise _not_integral("numbers outside of that")
    return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)


def _offset_error(got: str) -> DataError:
    return DataError(
        f"label lies beside its image: expected at most {MAX_OFFSET_VOXELS:g} voxels, {got}; check that both "
        "come from the same series",
        reason="label_offset",
    )


def _not_integral(got: str) -> DataError:
    return DataError(
        f"label: expected whole numbers from 0 to {MAX_LABEL}, got {got}; export it as class numbers, not as "
        "probabilities",
        reason="label_not_integral",
    )
