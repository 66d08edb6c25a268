"""NumPy archives in the MedMNIST layout: `train_images`, `train_labels`, and the same for val and test."""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import Shaped
from numpy.lib import format as npy

from medmim.data.dataset.manifest import Split
from medmim.data.formats.file_types import open_regular
from medmim.data.formats.images import picture_affine
from medmim.data.formats.nifti import Image, check_image
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

PARTS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
_MAX_BYTES = 2 << 30
_MAX_AXES = 8
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError, ValueError, TypeError, EOFError,
    OSError, OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip
_MAX_RATIO = 1040  # deflate compresses by at most 1032 to 1
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def count_arrays(path: str) -> dict[str, int]:
    """Return the number of images in each part of the file, from the array headers.

    Raises:
        DataError: with reason damaged or no_cases.
    """
    with open_regular(Path(path)) as stream, opened(stream) as archive:
        members = set(archive.namelist())
        counts = {}
        for part in PARTS:
            if f"{part}_images.npy" in members:
                counts[part] = _count_images(archive, f"{part}_images.npy")
    if not sum(counts.values()):
        raise DataError("array file: expected train_images, val_images or test_images", reason="no_cases")
    return counts


def read_arrays(path: str, part: str, first: int, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Write images of one part; return the manifest entries of each, or the reason of its rejection.

    Args:
        part: train, val or test.

    Raises:
        DataError: if the file cannot be read.
    """
    with open_regular(Path(path)) as stream, opened(stream) as archive:
        images = _member(archive, f"{part}_images.npy")
        labels_name = f"{part}_labels.npy"
        labels = _member(archive, labels_name) if labels_name in archive.namelist() else None
    results: list[dict[str, Any]] = []
    for index, target in enumerate(targets, start=first):
        try:
            image, repairs = array_as_image(images[index])
            check_image(image, picture=image.array.shape[2] == 1)
        except DataError as error:
            results.append({"reason": error.reason})
            continue
        facts = write_volume(image, Path(target))
        own = np.ravel(labels[index]).tolist() if labels is not None and index < len(labels) else []
        single = int(own[0]) if len(own) == 1 else None
        results.append({**facts, "repairs": repairs, "class": single, "classes": own if len(own) > 1 else []})
    return results


@contextlib.contextmanager
def opened(stream: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open the archive; any damage found while it is read becomes a DataError."""
    try:
        with zipfile.ZipFile(stream) as archive:
            yield archive
    except _DAMAGE as error:
        raise _damaged() from error


def read_array(stream: zipfile.ZipExtFile | IO[bytes]) -> Shaped[np.ndarray, "..."]:
    """Read the array of a .npy file or of a member of an archive; reject objects, which contain code.

    Raises:
        DataError: with reason damaged, unusable_array or truncated.
    """
    try:
        shape, dtype, order = _read_header(stream)
        content = stream.read(math.prod(shape) * dtype.itemsize)
    except _DAMAGE as error:
        raise _damaged() from error
    if len(content) < math.prod(shape) * dtype.itemsize:
        raise _truncated(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _read_header(
    stream: zipfile.ZipExtFile | IO[bytes],
) -> tuple[tuple[int, ...], np.dtype[Any], Literal["C", "F"]]:
    """Return shape, type and order; raise ValueError for lengths below 1, of which `read` takes all bytes."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if len(shape) > _MAX_AXES or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    if dtype.kind not in "uifb" or math.prod(shape) * dtype.itemsize > _MAX_BYTES:
        raise DataError("array file: expected numbers, up to 2 GiB; save it again", reason="unusable_array")
    return tuple(shape), dtype, "F" if fortran else "C"


def _count_images(archive: zipfile.ZipFile, name: str) -> int:
    """Return the number of images that an array declares, if the archive can contain them."""
    info = archive.getinfo(name)
    with archive.open(name) as stream:
        shape, dtype, _ = _read_header(stream)
    declared = math.prod(shape) * dtype.itemsize
    if not shape or declared > min(info.file_size, _MAX_RATIO * (info.compress_size + 64)):
        raise _truncated(declared)
    return shape[0]


def _truncated(expected: int) -> DataError:
    return DataError(
        f"array file: expected {expected} bytes of voxels, got fewer; copy it again", reason="truncated"
    )


def _damaged() -> DataError:
    return DataError("array file is damaged: expected a .npy or .npz file; save it again", reason="damaged")


def _member(archive: zipfile.ZipFile, name: str) -> Shaped[np.ndarray, "..."]:
    with archive.open(name) as stream:
        return read_array(stream)


def array_as_image(array: Shaped[np.ndarray, "..."], *, colours: bool = True) -> tuple[Image, list[str]]:
    """Return (rows, columns[, colours]) or a volume as an image.

    Args:
        colours: whether a third axis of length 3 is the colours of a picture.

    Raises:
        DataError: with reason unusable_array for other shapes.
    """
    affine = picture_affine(1.0)
    if colours and array.ndim == 3 and array.shape[2] == 3:
        grey = np.rint(array @ _LUMINANCE).astype(array.dtype)
        return Image(np.ascontiguousarray(grey.T)[..., None], affine), ["colour_to_grey"]
    if array.ndim == 2:
        return Image(np.ascontiguousarray(array.T)[..., None], affine), []
    if array.ndim == 3:
        return Image(np.ascontiguousarray(array.T), affine), []
    raise DataError("array file: expected pictures or volumes", reason="unusable_array")
