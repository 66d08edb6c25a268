"""The setting `spacing_mm`: one spacing for all axes or one for each, at which images keep their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmim.errors import ShapeError

Spacing = tuple[float, float, float]

_FEWEST = 2  # voxels along an axis


def largest_extents(shapes: np.ndarray, spacings: np.ndarray, across: np.ndarray | None) -> np.ndarray:
    """Return the largest extent of images along right, anterior, superior, in mm.

    An axis along which an image has a single voxel, or is cut into slices, counts as infinite.

    Args:
        shapes, spacings: of each image, (images, 3).
        across: the axis of each image that is cut into slices; None in 3D.
    """
    kept = shapes == 1
    if across is not None:
        kept = kept | (np.arange(3)[None] == across[:, None])
    return np.asarray(np.where(kept, np.inf, shapes * spacings).max(axis=0))


def given_spacing(spacing_mm: Sequence[float], extents_mm: np.ndarray) -> Spacing | None:
    """Return the spacing of the setting along right, anterior, superior; None: no resampling.

    Args:
        extents_mm: see `largest_extents`.

    Raises:
        ShapeError: for another number of values, or if no image would keep two voxels along an axis.
    """
    given = tuple(spacing_mm) * 3 if len(spacing_mm) == 1 else tuple(spacing_mm)
    shown = ",".join(f"{one:g}" for one in spacing_mm)
    if len(given) != 3 or 0 < sum(map(bool, given)) < 3:
        raise ShapeError(f"spacing_mm: expected 0, or one or three other numbers, got {shown}; use 0.8,0.8,3")
    if not all(given):
        return None
    if (extents_mm < _FEWEST * np.asarray(given)).any():
        raise ShapeError(
            f"spacing_mm={shown}: no image is larger than {_millimetres(extents_mm)} mm, so it would have "
            "less than two voxels along an axis; expected the size of a voxel in mm, such as 0.8,0.8,3"
        )
    return given[0], given[1], given[2]


def _millimetres(extents_mm: np.ndarray) -> str:
    return "×".join(f"{length:.3g}" for length in extents_mm if np.isfinite(length))
