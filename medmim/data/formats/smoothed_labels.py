"""Labels that were smoothed or resized by interpolation: values between the classes occur at their edges."""

from __future__ import annotations

import numpy as np
import scipy  # loads its submodules on first use
from jaxtyping import Integer

_MAX_VOXELS = 1_500_000  # around the middle of the label; enough for a warning, and quick in any volume
_MIN_VOXELS = 4


def values_at_edges(label: Integer[np.ndarray, "x y z"]) -> tuple[int, ...]:
    """Return the values that occur only between a lower and a higher neighbour.

    Interpolation leaves such values at the edge of a class. A class of its own has them only if it is nowhere
    three voxels wide.

    Args:
        label: class numbers from 0 to 65535.
    """
    planes = max(3, _MAX_VOXELS // label[..., 0].size)
    start = max(0, (label.shape[2] - planes) // 2)
    part = label[..., start : start + planes]
    if len(np.unique(part)) < 3:
        return ()
    above = part > scipy.ndimage.minimum_filter(part, 3)
    between = above & (part < scipy.ndimage.maximum_filter(part, 3))
    inner = slice(1, -1) if part.shape[2] < label.shape[2] else slice(None)  # outer planes lack a neighbour
    counts = np.bincount(part[..., inner].ravel())
    at_edges = np.bincount(part[..., inner][between[..., inner]], minlength=len(counts))
    return tuple(np.flatnonzero((counts >= _MIN_VOXELS) & (at_edges == counts)).tolist())
