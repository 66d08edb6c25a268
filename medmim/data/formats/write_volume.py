"""A checked volume as a file of the dataset, and the facts of it for the manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medmim import files
from medmim.data.formats.nifti import Image, encode_image


def store(image: Image, target: Path) -> dict[str, Any]:
    """Write a volume with a header of our own and return its facts for the manifest."""
    content = encode_image(image)
    files.write_bytes(target, content)
    return {
        "shape": list(image.array.shape),
        "spacing_mm": [round(length, 6) for length in image.spacing_mm],
        "orientation": image.orientation,
        "sha256": hashlib.sha256(content).hexdigest(),
        "pixels_sha256": pixels_digest(image),
    }


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
