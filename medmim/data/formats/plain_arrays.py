"""NumPy files with one image each (.npy, .npz), and in archives the label next to it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from medmim.data.formats.file_types import open_regular
from medmim.data.formats.images import picture_affine
from medmim.data.formats.nifti import Image, LoadedImage
from medmim.data.formats.npz import array_as_image, opened, read_array
from medmim.errors import DataError

ARRAY_NAMES = (".npy", ".npz")
_IMAGE_KEYS = ("image", "img", "volume", "vol", "data", "scan", "x", "arr_0")
_LABEL_KEYS = ("label", "labels", "mask", "seg", "segmentation", "gt", "y", "arr_1")


def read_plain_array(path: Path, *, spacing_mm: float = 1.0, label: bool = False) -> LoadedImage:
    """Read an array of (rows, columns), (rows, columns, 3) or (slices, rows, columns).

    The file states neither spacing nor orientation: axes are taken as those of pictures and stacks of axial
    slices. Axes of length 1 are dropped.

    Args:
        label: read the label of an archive, not its image.

    Raises:
        DataError: with reason unreadable, damaged, unusable_array, truncated or arrays_unclear.
    """
    with open_regular(path) as stream:
        if path.name.lower().endswith(".npz"):
            with opened(stream) as archive, archive.open(_member(archive, label=label)) as member:
                array = read_array(member)
        else:
            array = read_array(stream)
    kept = [length for length in array.shape if length > 1]
    array = array.reshape(kept if array.ndim > 2 and len(kept) >= 2 else array.shape)
    image, repairs = array_as_image(array, colours=array.dtype == np.uint8 and not label)
    return LoadedImage(Image(image.array, picture_affine(spacing_mm)), tuple(repairs))


def has_own_label(path: Path) -> bool:
    """Return whether a NumPy archive contains an image and its label.

    Raises:
        DataError: with reason unreadable or damaged.
    """
    if not path.name.lower().endswith(".npz"):
        return False
    with open_regular(path) as stream, opened(stream) as archive:
        names = set(_members(archive))
    return bool(names & set(_IMAGE_KEYS)) and bool(names & set(_LABEL_KEYS))


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the arrays of an archive by their name in lower case."""
    return {name[:-4].lower(): name for name in archive.namelist() if name.endswith(".npy")}


def _member(archive: zipfile.ZipFile, *, label: bool) -> str:
    members = _members(archive)
    found = [members[key] for key in (_LABEL_KEYS if label else _IMAGE_KEYS) if key in members]
    found = found or (list(members.values()) if len(members) == 1 else [])
    if not found:
        raise DataError(
            f"array file with {len(members)} arrays: expected one named image, and its label named label; "
            "save it again, or ingest a MedMNIST archive with --as medmnist",
            reason="arrays_unclear",
        )
    return found[0]
