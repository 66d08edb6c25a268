"""Labelled voxels of preprocessed volumes, and draws of them that are balanced over classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from torch import Tensor

IGNORE = 255  # class of voxels without a known label, for loss and metrics
_TRIES = 16  # to find a background voxel
_MAX_PLACES = 1 << 16  # kept of each volume: 1 MB


def labelled_places(label: Tensor, *, most: int = _MAX_PLACES) -> Int32[Tensor, "places 4"]:
    """Return labelled voxels as class and position, at most the same number of each class, evenly spaced.

    Args:
        label: (1, x, y, z); 0 is background, `IGNORE` is left out.
    """
    array = label[0].numpy()
    flat = np.flatnonzero((array > 0) & (array != IGNORE))
    values = array.reshape(-1)[flat]
    codes = np.unique(values)
    each = max(most // max(len(codes), 1), 1)
    kept = [flat[values == code] for code in codes]
    kept = [
        one[np.linspace(0, len(one) - 1, each).astype(np.int64)] if len(one) > each else one for one in kept
    ]
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *kept])
    position = np.unravel_index(chosen, label.shape[1:])
    table = np.stack([array.reshape(-1)[chosen], *position], axis=1)
    return torch.from_numpy(table.astype(np.int32))


def pick_place(places: Tensor, stream: np.random.RandomState) -> list[int]:
    """Draw a class, each with equal probability, and then a voxel of it; return its position.

    Args:
        places: class and position, at least one row.
    """
    classes = torch.unique(places[:, 0])
    rows = (places[:, 0] == classes[stream.randint(len(classes))]).nonzero().flatten()
    position: list[int] = places[rows[stream.randint(len(rows))], 1:].tolist()
    return position


def patch_counts(label: Tensor, places: Tensor, size: Sequence[int], *, classes: int) -> Tensor:
    """Return the number of voxels of background and each class in patches around each class of a volume.

    Args:
        label: (1, x, y, z); `IGNORE` is left out.
        places: as `labelled_places` returns them; the patch of a class is around its middle row.
    """
    counts = torch.zeros(classes)
    for one in torch.unique(places[:, 0]):
        rows = places[places[:, 0] == one]
        corner = [
            max(min(int(centre) - own // 2, length - own), 0)
            for centre, own, length in zip(rows[len(rows) // 2, 1:], size, label.shape[1:], strict=True)
        ]
        inside = tuple(slice(first, first + own) for first, own in zip(corner, size, strict=True))
        values = label[0][inside]
        counts += torch.bincount(values[values != IGNORE].long(), minlength=classes)
    return counts


def foreground_shares(cases: Sequence[Sequence[int]]) -> dict[int, float]:
    """Return the share of foreground patches centred on each class."""
    found: dict[int, float] = {}
    labelled = [set(classes) for classes in cases if classes]
    for classes in labelled:
        for one in classes:
            found[one] = found.get(one, 0.0) + 1 / len(classes) / len(labelled)
    return dict(sorted(found.items()))


def unlabelled_voxel(label: Tensor, stream: Any) -> list[int]:
    """Draw a background voxel, or any voxel where background is rare.

    Args:
        label: (1, *space).
    """
    voxel: list[int] = []
    for _ in range(_TRIES):
        voxel = [int(stream.randint(length)) for length in label.shape[1:]]
        if not label[(0, *voxel)]:
            break
    return voxel
