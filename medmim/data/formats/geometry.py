"""Voxel grids in space: affines from DICOM headers, slice normals, grid distances and axis alignment."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Shaped
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from medmim.data.formats.nifti import Image

Affine = Float64[np.ndarray, "4 4"]
Points = Float64[np.ndarray, "points 3"]
Vector = Float64[np.ndarray, "3"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def slice_normal(orientation: Sequence[float]) -> Vector:
    """Return the unit normal of a slice (LPS): the cross product of its row and column direction."""
    normal = np.cross(np.asarray(orientation[:3], np.float64), np.asarray(orientation[3:], np.float64))
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def orthogonality_error(orientation: Sequence[float]) -> float:
    """Return by how much row and column direction deviate from two orthogonal unit vectors."""
    axes = np.asarray(orientation, np.float64).reshape(2, 3)
    return float(np.abs(axes @ axes.T - np.eye(2)).max())


def slice_affine(orientation: Sequence[float], spacing: Sequence[float], position: Sequence[float]) -> Affine:
    """Return the affine of one slice: (column, row, 0) to mm in RAS.

    Args:
        orientation: ImageOrientationPatient, six direction cosines (LPS).
        spacing: PixelSpacing, between rows then between columns, in mm.
        position: ImagePositionPatient, centre of the first pixel, in mm (LPS).
    """
    axes = np.asarray(orientation, np.float64).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * spacing[1]
    affine[:3, 1] = axes[1] * spacing[0]
    affine[:3, 2] = slice_normal(orientation)
    affine[:3, 3] = position
    return np.asarray(_LPS_TO_RAS @ affine, np.float64)


def dicom_geometry(affine: Affine) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return orientation, pixel spacing and position (LPS) of the first slice: inverse of `slice_affine`."""
    axes = (_LPS_TO_RAS @ affine)[:3]
    spacing = np.linalg.norm(axes[:, :2], axis=0)
    directions = axes[:, :2] / spacing
    return tuple(directions.T.ravel().tolist()), tuple(spacing[::-1].tolist()), tuple(axes[:, 3].tolist())


def volume_affine(orientation: Sequence[float], spacing: Sequence[float], positions: Points) -> Affine:
    """Return the affine of a volume: (column, row, slice) to mm in RAS; slices are evenly spaced."""
    affine = slice_affine(orientation, spacing, positions[0].tolist())
    affine[:3, 2] = _LPS_TO_RAS[:3, :3] @ (positions[-1] - positions[0]) / (len(positions) - 1)
    return affine


def corner_points(shape: Sequence[int], affine: Affine) -> Points:
    """Return the centres of the eight corner voxels in mm (RAS)."""
    indices = np.array(list(itertools.product(*((0.0, length - 1.0) for length in shape))))
    return np.asarray(indices @ affine[:3, :3].T + affine[:3, 3], np.float64)


def slice_corners(
    places: Float64[np.ndarray, "slices 9"], size: Sequence[int]
) -> Float64[np.ndarray, "slices 4 3"]:
    """Return the centres of the four corner pixels of each slice in mm (RAS).

    Args:
        places: position, and row and column direction times spacing, of each slice in mm (LPS).
        size: rows and columns.
    """
    ends = np.array([[1.0, column, row] for column in (0, size[1] - 1) for row in (0, size[0] - 1)])
    return np.asarray(ends @ places.reshape(-1, 3, 3) @ _LPS_TO_RAS[:3, :3], np.float64)


def corner_distance(shape: Sequence[int], first: Affine, second: Affine) -> float:
    """Return the largest distance between corresponding corners of two grids, in mm."""
    difference = corner_points(shape, first) - corner_points(shape, second)
    return float(np.linalg.norm(difference, axis=1).max())


def align_axes(image: Image, affine: Affine) -> Image | None:
    """Return `image` with its axes flipped and permuted to match `affine`; None if that is impossible.

    Nothing is resampled: the array is a view of the same voxels.
    """
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        return None
    turn = np.rint(np.linalg.inv(image.affine[:3, :3]) @ affine[:3, :3])
    if not np.array_equal(np.abs(turn) @ np.abs(turn).T, np.eye(3)):
        return None
    order = np.abs(turn).argmax(axis=0)
    move = np.eye(4)
    move[:3, :3] = turn
    array: Shaped[np.ndarray, "x y z"] = image.array.transpose(order.tolist())
    for axis, source in enumerate(order):
        if turn[source, axis] < 0:
            move[source, 3] = image.array.shape[source] - 1
            array = np.flip(array, axis)
    return Image(array, np.asarray(image.affine @ move, np.float64))


def nearest_ras(image: Image) -> Image:
    """Return `image` with its axes flipped and permuted so that each is nearest to right, anterior, superior.

    Nothing is resampled. If axes do not correspond one to one, the image is returned unchanged.
    """
    order = io_orientation(image.affine)
    if np.isnan(order).any():
        return image
    array: Shaped[np.ndarray, "x y z"] = apply_orientation(image.array, order)
    return Image(array, np.asarray(image.affine @ inv_ornt_aff(order, image.array.shape), np.float64))
