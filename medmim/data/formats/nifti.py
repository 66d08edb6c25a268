"""Volumes as NIfTI: files are read with distrust, and written with a header of our own that carries no text.

Messages name no file, because file names identify patients; the caller knows which file it gave.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from jaxtyping import Float64, Shaped
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

from medmim.data.formats import nifti_header
from medmim.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 16  # asks zlib for a gzip file, without a name or time in it
_PACKING = 1  # 3 to 5 % larger than level 6 of zlib, in a sixth of its time
_GZIP_BEST_RATIO = 1040  # deflate cannot do better than 1032 to 1
_INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


@dataclass(frozen=True, eq=False)
class Image:
    """A scalar volume and its place in space.

    `affine` takes voxel indices to millimetres in RAS: x to the right, y to the front, z to the head.
    """

    array: Shaped[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each array axis, in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def orientation(self) -> str:
        """Nibabel's axis codes: the end that each array axis runs towards, such as RAS."""
        return "".join(code or "?" for code in aff2axcodes(self.affine))


def read_image(path: Path) -> Image:
    """Read a .nii or .nii.gz file that anybody may have written.

    Integers without scaling keep their type, everything else becomes float32. The sform rules where both
    forms are set, as in nibabel. No more is read or unpacked than the header's sizes call for.

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
                    return _read(content, size * _GZIP_BEST_RATIO)
            return _read(stream, size)
        except EOFError as error:
            raise DataError(
                "NIfTI file ends early: its packed data is incomplete; copy it again", reason="truncated"
            ) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                "NIfTI file is damaged: its packed data fails its own check; copy it again", reason="damaged"
            ) from error
        except OSError as error:
            raise _unreadable(error) from error


def encode_image(image: Image) -> bytes:
    """Return the volume as a .nii.gz file: equal images, equal bytes, and no text in the header.

    Booleans become uint8, wide integers the smallest type that holds them, wide floats float32.

    Raises:
        DataError: with reason not_scalar for other types of voxel.
    """
    array = _compact(image.array)
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1.0, 0.0)
    header.set_xyzt_units("mm", "unknown")
    header.set_qform(image.affine, code=1, strip_shears=True)
    if not np.allclose(header.get_qform(), image.affine, rtol=0.0, atol=1e-4 * min(image.spacing_mm)):
        header.set_qform(None, code=0)  # a sheared grid has no quaternion; the sform alone is right
        header.set_zooms(image.spacing_mm)
    header.set_sform(image.affine, code=1)
    header["magic"] = b"n+1"
    header["vox_offset"] = header.single_vox_offset
    packer = isal_zlib.compressobj(_PACKING, wbits=zlib.MAX_WBITS | _GZIP)
    voxels = np.asfortranarray(array).reshape(-1, order="F").view(np.uint8)  # no copy of what lies so already
    parts = (header.binaryblock + bytes(4), voxels)  # four zeros: no extensions follow
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def check_image(image: Image, *, picture: bool = False) -> None:
    """Refuse a volume that nothing can be learnt from, or whose place in space is unknown.

    Args:
        image: the volume.
        picture: it is a picture, so one slice is all that there can be.

    Raises:
        DataError: with reason too_few_slices, bad_affine, non_finite_voxels or constant_image.
    """
    if min(image.array.shape[: 2 if picture else 3]) < 2:
        raise DataError(
            f"volume of {nifti_header.show(image.array.shape)} voxels: expected at least 2 along each axis; "
            "a single slice is no volume",
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
            "volume has one value everywhere, expected an image; leave it out", reason="constant_image"
        )


def open_regular(path: Path) -> io.BufferedReader:
    """Open without waiting on FIFOs and devices."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(
            "expected a regular file, got a folder, device or pipe; leave it out", reason="unreadable"
        )
    return os.fdopen(handle, "rb")


def _read(content: io.BufferedIOBase, most_bytes: int) -> Image:
    """Read one volume; `most_bytes` is all that the file can possibly hold."""
    header = nifti_header.read_header(content)
    shape, dtype = nifti_header.shape_of(header), nifti_header.dtype_of(header)
    needed = math.prod(shape) * dtype.itemsize
    if needed > nifti_header.MAX_BYTES:
        limit = nifti_header.MAX_BYTES / 2**30
        raise DataError(
            f"NIfTI file holds {needed / 2**30:.1f} GiB of voxels, expected up to {limit:g}; crop it",
            reason="too_large",
        )
    affine = nifti_header.affine_of(header)
    _skip(content, nifti_header.offset_of(header) - len(header.binaryblock))
    if needed > most_bytes:
        raise nifti_header.truncated(needed, most_bytes)
    voxels = bytearray(needed)
    got = _fill(content, voxels)
    if got < needed:
        raise nifti_header.truncated(needed, got)
    content.read(1)  # at the end of packed data this checks its checksum
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
    with np.errstate(over="ignore", invalid="ignore"):  # `check_image` counts what became infinite
        if scaled:
            array = array.astype(np.float64) * slope + offset
        return array.astype(np.float32)


def _compact(array: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "x y z"]:
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype("<f4")
    if array.dtype.kind not in "iu":
        raise nifti_header.not_scalar("another")
    if array.dtype.itemsize < 8:
        return array.astype(array.dtype.newbyteorder("<"), copy=False)
    low, high = int(array.min()), int(array.max())
    fitting = (kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return array.astype(np.dtype(next(fitting)).newbyteorder("<"))


def _skip(content: io.BufferedIOBase, count: int) -> None:
    _fill(content, bytearray(count))


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


def _unreadable(error: OSError) -> DataError:
    return DataError(
        f"file cannot be read ({type(error).__name__}): expected a regular file that you may read; check its "
        "permissions and the disk",
        reason="unreadable",
    )
