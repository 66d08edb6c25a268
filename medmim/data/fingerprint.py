"""One number for the voxels of a volume, whatever its header says: the same under two patients is a leak."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from medmim.data.manifest import Volume
from medmim.data.nifti import Image


def pixels_digest(image: Image) -> str:
    """Return a SHA-256 of the voxels in the order left to right, back to front, foot to head.

    Axis order, number type, spacing and position do not enter: a scan that was converted, renamed or moved
    keeps its number.
    """
    turn = nib.orientations.io_orientation(image.affine)
    array = image.array if np.isnan(turn).any() else nib.orientations.apply_orientation(image.array, turn)
    digest = hashlib.sha256(repr(array.shape).encode())
    for place in range(array.shape[-1]):  # a slice at a time: a float copy of a large CT would double it
        digest.update(np.ascontiguousarray(array[..., place], np.float32).data)
    return digest.hexdigest()


def same_pixels(volumes: Iterable[Volume]) -> list[dict[str, Any]]:
    """Return a warning for all volumes of several subjects that hold the same voxels.

    Each names the volumes, the subjects and the splits that they are in; more than one split is a leak from
    training into testing.
    """
    groups: dict[str, list[Volume]] = {}
    for volume in volumes:
        if volume.pixels_sha256:
            groups.setdefault(volume.pixels_sha256, []).append(volume)
    alike = [group for group in groups.values() if len({one.subject for one in group}) > 1]
    return sorted((_warning(group) for group in alike), key=lambda warning: str(warning["volumes"]))


def _warning(group: Sequence[Volume]) -> dict[str, Any]:
    return {
        "kind": "same_pixels_under_two_subjects",
        "volumes": sorted(one.id for one in group),
        "subjects": sorted({one.subject for one in group}),
        "splits": sorted({one.split for one in group if one.split}),
    }
