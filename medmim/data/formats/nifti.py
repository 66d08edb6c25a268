"""NIfTI files from any source, read safely into `Image`, the array and affine used throughout medmim.

Error messages contain no file names, because file names identify patients.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

from medmim.data.formats import nifti_header
from medmim.data.formats.file_types import open_regular, unreadable
from medmim.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MAX_RATIO = 1040  # deflate compresses by at most 1032 to 1


@dataclass(frozen=True, eq=False)
class Image:
    """A scalar volume and its position in space.

    `affine` maps voxel indices to millimetres in RAS: x to the right, y to the front, z to the head.
    """

    array: Shaped[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each array axis, in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def orientation(self) -> str:
        """Nibabel's axis codes: the direction in which each array axis runs, such as RAS."""
        return "".join(code or "?" for code in aff2axcodes(self.affine))


def read_image(path: Path) -> Image:
    """Read a .nii or .nii.gz file from an untrusted source.

    Integers without scaling keep their type; all other voxels become float32. Where both forms are set the
    sform takes precedence, as in nibabel. No more bytes are read or decompressed than the header declares.

    Raises:
        DataError: with reason unreadable, not_nifti, bad_dims, too_large, not_3d, not_scalar, bad_scaling,
            no_orientation, bad_affine, truncated or damaged.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        packed = stream.read(2) == _GZIP_MAGIC
        stream.seek(0)
        try:
            if packed:
                with gzip.GzipFile(fileobj=stream, mode="rb") as content:
                    return _read(content, size * _GZIP_MAX_RATIO)
            return _read(stream, size)
        except EOFError as error:
            raise DataError(
                "NIfTI file ends early: its compressed data is incomplete; copy it again", reason="truncated"
            ) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                "NIfTI file is damaged: its compressed data fails the checksum; copy it again",
                reason="damaged",
            ) from error
        except OSError as error:
            raise unreadable(error) from error


def check_image(image: Image, *, picture: bool = False) -> None:
    """Reject a volume without any information, or with an invalid affine.

    Args:
        image: the volume.
        picture: whether the image is a 2D picture, stored as a volume of one slice.

    Raises:
        DataError: with reason too_few_slices, bad_affine, non_finite_voxels or constant_image.
    """
    if min(image.array.shape[: 2 if picture else 3]) < 2:
        raise DataError(
            f"volume of {nifti_header.show(image.array.shape)} voxels: expected at least 2 along each axis; "
            "a single slice is not a volume",
            reason="too_few_slices",
        )
    nifti_header.check_affine(image.affine)
    if image.array.dtype.kind == "f" and (wrong := int(np.count_nonzero(~np.isfinite(image.array)))):
        raise DataError(
            f"volume has {wrong} voxels that are NaN or infinite, expected none; export it again",
            reason="non_finite_voxels",
        )
    if image.array.min() == image.array.max():
        raise DataError(
            "volume has one value everywhere, expected an image; remove it", reason="constant_image"
        )


def _read(content: io.BufferedIOBase, max_bytes: int) -> Image:
    """Read one volume; `max_bytes` bounds the data that the file can contain."""
    header = nifti_header.read_header(content)
    shape, dtype = nifti_header.shape_of(header), nifti_header.dtype_of(header)
    needed = math.prod(shape) * dtype.itemsize
    if needed > nifti_header.MAX_BYTES:
        limit = nifti_header.MAX_BYTES / 2**30
        raise DataError(
            f"NIfTI file contains {needed / 2**30:.1f} GiB of voxels, expected up to {limit:g}; crop it",
            reason="too_large",
        )
    affine = nifti_header.affine_of(header)
    _fill(content, bytearray(nifti_header.offset_of(header) - len(header.binaryblock)))
    if needed > max_bytes:
        raise nifti_header.truncated(needed, max_bytes)
    voxels = bytearray(needed)
    got = _fill(content, voxels)
    if got < needed:
        raise nifti_header.truncated(needed, got)
    content.read(1)  # at the end of compressed data this verifies the checksum
    array = np.frombuffer(voxels, dtype).reshape(shape, order="F")
    return Image(_scale(array.astype(dtype.newbyteorder("="), copy=False), header), affine)


def _scale(array: Shaped[np.ndarray, "x y z"], header: Any) -> Shaped[np.ndarray, "x y z"]:
    try:
        slope, offset = header.get_slope_inter()
    except HeaderDataError as error:
        raise DataError(
            "NIfTI header: expected a finite slope and intercept; export it again", reason="bad_scaling"
        ) from error
    scaled = slope is not None and (slope != 1 or offset != 0)
    if not scaled and array.dtype.kind in "iu":
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # `check_image` counts infinite voxels
        if scaled:
            array = array.astype(np.float64) * slope + offset
        return array.astype(np.float32)


def _fill(content: io.BufferedIOBase, target: bytearray) -> int:
    """Read into `target` until it is full or the file ends; return the number of bytes read."""
    view, done = memoryview(target), 0
    while done < len(target):
        piece = content.read(min(1 << 22, len(target) - done))
        if not piece:
            break
        view[done : done + len(piece)] = piece
        done += len(piece)
    return done
