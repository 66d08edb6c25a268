"""Checked access to NIfTI headers: shape, voxel type, offset and affine.

Error messages contain no file names, because file names identify patients.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float64
from nibabel.spatialimages import HeaderDataError

from medmim.errors import DataError

MAX_LENGTH = 16384  # voxels along one axis
MAX_VOXELS = 2_000_000_000
MAX_BYTES = 4 * 2**30  # of voxels, after decompression
MAX_SPACING_MM = 100.0
_MAX_OFFSET = 64 * 2**20  # header extensions end before this byte
_FORMATS = {348: (nib.Nifti1Header, 344, b"n+1\0"), 540: (nib.Nifti2Header, 4, b"n+2\0\r\n\x1a\n")}


def read_header(content: io.BufferedIOBase) -> Any:
    """Read a NIfTI-1 or NIfTI-2 header in either byte order.

    Raises:
        DataError: with reason not_nifti or truncated.
    """
    start = content.read(4)
    order, size = "<", int.from_bytes(start, "little")
    if size not in _FORMATS:
        order, size = ">", int.from_bytes(start, "big")
    if len(start) < 4 or size not in _FORMATS:
        raise _not_nifti("it does not begin with the size of a NIfTI header")
    header, place, magic = _FORMATS[size]
    block = start + content.read(size - 4)
    if len(block) < size:
        raise truncated(size, len(block))
    if block[place : place + len(magic)] != magic:
        raise _not_nifti("its magic number is wrong (convert pairs of .hdr and .img to .nii)")
    return header(block, endianness=order, check=False)


def shape_of(header: Any) -> tuple[int, ...]:
    """Return the shape in voxels, three axes; trailing axes of length one are dropped.

    Raises:
        DataError: with reason bad_dims, too_large or not_3d.
    """
    count = int(header["dim"][0])
    lengths = [int(length) for length in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []
    if not lengths or min(lengths) < 1:
        raise DataError(
            "NIfTI header: expected 1 to 7 positive dimensions; export it again", reason="bad_dims"
        )
    if max(lengths) > MAX_LENGTH or math.prod(lengths) > MAX_VOXELS:
        raise DataError(
            f"NIfTI file of {show(lengths)} voxels: expected up to {MAX_LENGTH} along an axis and "
            f"{MAX_VOXELS:g} in total; crop it",
            reason="too_large",
        )
    while len(lengths) > 3 and lengths[-1] == 1:
        lengths.pop()
    if len(lengths) != 3:
        raise DataError(
            f"NIfTI file has {len(lengths)} axes ({show(lengths)}), expected 3; split time points and "
            "channels into one file each",
            reason="not_3d",
        )
    return tuple(lengths)


def dtype_of(header: Any) -> np.dtype[Any]:
    """Return the stored voxel type.

    Raises:
        DataError: with reason not_scalar.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise not_scalar("an unknown") from error
    if dtype.kind not in "iuf":
        raise not_scalar("a colour or complex")
    return dtype


def offset_of(header: Any) -> int:
    """Return the byte offset of the voxels.

    Raises:
        DataError: with reason not_nifti.
    """
    offset = float(header["vox_offset"])
    if not header.single_vox_offset <= offset <= _MAX_OFFSET:
        raise _not_nifti("the offset of its voxels is invalid")
    return int(offset)


def affine_of(header: Any) -> Float64[np.ndarray, "4 4"]:
    """Return the affine from voxel indices to RAS mm; the sform takes precedence over the qform.

    Raises:
        DataError: with reason no_orientation or bad_affine.
    """
    try:
        affine, code = header.get_sform(coded=True)
        if not code:
            affine, code = header.get_qform(coded=True)
    except (HeaderDataError, ValueError) as error:
        raise _bad_affine(
            "expected a rotation as a unit quaternion and positive spacing, got neither"
        ) from error
    if not code:
        raise DataError(
            "NIfTI file does not define left and right: expected an sform or a qform, got neither; set one "
            "from the original scan",
            reason="no_orientation",
        )
    affine = np.asarray(affine, dtype=np.float64)
    check_affine(affine)
    return affine


def check_affine(affine: Float64[np.ndarray, "4 4"]) -> None:
    """Reject an affine that does not map a voxel grid to millimetres.

    Raises:
        DataError: with reason bad_affine.
    """
    if not np.isfinite(affine).all():
        raise _bad_affine("expected finite numbers, got NaN or infinity")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() <= 0 or spacing.max() > MAX_SPACING_MM:
        shown = " × ".join(f"{length:g}" for length in spacing)
        raise _bad_affine(f"expected a spacing above 0 and up to {MAX_SPACING_MM:g} mm, got {shown}")
    volume = abs(float(np.linalg.det(affine[:3, :3] / spacing)))
    if volume < 1e-3 or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise _bad_affine("expected three axes that span space, got a singular matrix")


def truncated(expected: int, got: int) -> DataError:
    """Build the error for a file that ends early; sizes in bytes."""
    return DataError(
        f"NIfTI file ends early: expected {expected} bytes, got at most {got}; copy it again",
        reason="truncated",
    )


def not_scalar(got: str) -> DataError:
    """Build the error for voxels that are not single numbers."""
    return DataError(
        f"voxels: expected one integer or real number each, got {got} type; convert to grey values",
        reason="not_scalar",
    )


def show(shape: Sequence[int]) -> str:
    """Format a shape, such as 64×64×24."""
    return "×".join(map(str, shape))


def _not_nifti(why: str) -> DataError:
    return DataError(
        f"expected a single-file NIfTI-1 or NIfTI-2 image, but {why}; convert or remove it",
        reason="not_nifti",
    )


def _bad_affine(problem: str) -> DataError:
    return DataError(f"position in space: {problem}; export it again", reason="bad_affine")
