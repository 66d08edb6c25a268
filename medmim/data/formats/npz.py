"""Files of NumPy arrays as MedMNIST has them: `train_images`, `train_labels`, the same for val and test."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Shaped
from numpy.lib import format as npy

from medmim.data.dataset.manifest import Split
from medmim.data.formats.images import picture_affine
from medmim.data.formats.nifti import Image, check_image, open_regular
from medmim.data.formats.write_volume import store
from medmim.errors import DataError

PARTS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
_MAX_BYTES = 2 << 30
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def count_arrays(path: str) -> dict[str, int]:
    """Return the number of images in each part of the file; nothing is unpacked.

    Raises:
        DataError: with reason damaged or no_cases.
    """
    with open_regular(Path(path)) as stream, _opened(stream) as archive:
        held = set(archive.namelist())
        counts = {
            part: _shape_of(archive, f"{part}_images.npy")[0]
            for part in PARTS
            if f"{part}_images.npy" in held
        }
    if not sum(counts.values()):
        raise DataError("array file: expected train_images, val_images or test_images", reason="no_cases")
    return counts


def read_arrays(path: str, part: str, first: int, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Write some images of a part and return the facts of each, or the reason of its refusal.

    Args:
        path: the .npz file.
        part: train, val or test.
        first: number of the first image.
        targets: where to write each of them.

    Raises:
        DataError: if the file cannot be read.
    """
    with open_regular(Path(path)) as stream, _opened(stream) as archive:
        images = _array(archive, f"{part}_images.npy")
        named = f"{part}_labels.npy"
        labels = _array(archive, named) if named in archive.namelist() else None
    found: list[dict[str, Any]] = []
    for entry, target in enumerate(targets, start=first):
        try:
            image, repairs = _image_of(images[entry])
            check_image(image, picture=image.array.shape[2] == 1)
        except DataError as error:
            found.append({"reason": error.reason})
            continue
        facts = store(image, Path(target))
        found.append({**facts, "repairs": repairs, "class": _class_of(labels, entry)})
    return found


def _opened(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise DataError("array file is damaged: expected an .npz archive", reason="damaged") from error


def _header_of(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type, and leave the stream behind the header; objects are refused: they are code."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.kind not in "uif" or fortran or math.prod(shape) * dtype.itemsize > _MAX_BYTES:
        raise DataError(
            "array file: expected rows of numbers, up to 2 GiB; save it again", reason="unusable_array"
        )
    return tuple(shape), dtype


def _shape_of(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with archive.open(name) as stream:
        return _header_of(stream)[0]


def _array(archive: zipfile.ZipFile, name: str) -> Shaped[np.ndarray, "..."]:
    with archive.open(name) as stream:
        shape, dtype = _header_of(stream)
        content = stream.read(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape)


def _image_of(array: Shaped[np.ndarray, "..."]) -> tuple[Image, list[str]]:
    """Return rows × columns (with colours or not), or a volume, as an image."""
    affine = picture_affine(1.0)
    if array.ndim == 3 and array.shape[2] == 3:
        grey = np.rint(array @ _LUMINANCE).astype(array.dtype)
        return Image(np.ascontiguousarray(grey.T)[..., None], affine), ["colour_to_grey"]
    if array.ndim == 2:
        return Image(np.ascontiguousarray(array.T)[..., None], affine), []
    if array.ndim == 3:
        return Image(np.ascontiguousarray(array.T), affine), []
    raise DataError("array file: expected pictures or volumes", reason="unusable_array")


def _class_of(labels: Shaped[np.ndarray, "..."] | None, entry: int) -> int | None:
    """Return the class number; None where an image has several, or none."""
    if labels is None or entry >= len(labels) or np.size(labels[entry]) != 1:
        return None
    return int(np.ravel(labels[entry])[0])
