"""Checked access to NIfTI headers: shape, voxel type, offset and scaling of the voxels.

Error messages contain no file names, because file names identify patients.
"""

from __future__ import annotations

import io
import math
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float64
from nibabel.spatialimages import HeaderDataError

from medmim.errors import DataError, size_text

MAX_LENGTH = 16384  # voxels along one axis
MAX_VOXELS = 2_000_000_000
MAX_BYTES = 4 * 2**30  # of voxels, after decompression
MAX_SPACING_MM = 100.0
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_MAX_OFFSET = 64 * 2**20  # header extensions end before this byte
_FORMATS = {
    348: (nib.Nifti1Header, 344, (b"n+1\0", b"ni1\0")),
    540: (nib.Nifti2Header, 4, (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")),
}


def read_header(content: io.BufferedIOBase) -> Any:
    """Read a NIfTI-1 or NIfTI-2 header in either byte order, of a single file or a pair.

    Raises:
        DataError: with reason not_nifti or truncated.
    """
    start = content.read(4)
    order, size = "<", int.from_bytes(start, "little")
    if size not in _FORMATS:
        order, size = ">", int.from_bytes(start, "big")
    if len(start) < 4 or size not in _FORMATS:
        raise _not_nifti("it does not begin with the size of a NIfTI header")
    header, place, magics = _FORMATS[size]
    block = start + content.read(size - 4)
    if len(block) < size:
        raise truncated(size, len(block))
    if not any(block[place : place + len(magic)] == magic for magic in magics):
        raise _not_nifti("its magic number is wrong (Analyze 7.5 files do not define left and right)")
    return header(block, endianness=order, check=False)


def is_pair(header: Any) -> bool:
    """Return whether the voxels are in a separate .img file."""
    return bytes(header["magic"].item())[:2] == b"ni"


def shape_of(header: Any) -> tuple[int, ...]:
    """Return the shape in voxels: three axes, or four for time points or channels.

    Axes of length one are added to 2D pictures, and dropped beyond the third.

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
            f"NIfTI file of {size_text(lengths)} voxels: expected up to {MAX_LENGTH} along an axis and "
            f"{MAX_VOXELS:g} in total; crop it",
            reason="too_large",
        )
    shape = [*lengths[:3], *(length for length in lengths[3:] if length > 1)]
    if len(lengths) == 2:
        shape.append(1)
    if not 3 <= len(shape) <= 4:
        raise DataError(
            f"NIfTI file has {len(lengths)} axes ({size_text(lengths)}), expected 2 to 4; split it",
            reason="not_3d",
        )
    return tuple(shape)


def dtype_of(header: Any) -> np.dtype[Any]:
    """Return the stored voxel type: a number or `RGB`.

    Raises:
        DataError: with reason not_scalar.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        raise not_scalar("an unknown") from error
    if dtype.kind not in "iuf" and dtype != RGB:
        raise not_scalar("a colour with transparency or complex")
    return dtype


def offset_of(header: Any) -> tuple[int, tuple[str, ...]]:
    """Return the byte offset of the voxels, and a repair: an offset of 0 in a single file is the default.

    Raises:
        DataError: with reason not_nifti.
    """
    offset = float(header["vox_offset"])
    if is_pair(header):
        least = 0
    elif offset == 0:
        return int(header.single_vox_offset), ("voxel_offset_default",)
    else:
        least = header.single_vox_offset
    if not least <= offset <= _MAX_OFFSET:
        raise _not_nifti("the offset of its voxels is invalid")
    return int(offset), ()


def scaling_of(header: Any) -> tuple[float, float] | None:
    """Return slope and intercept of the voxel values; None if they are stored as they are.

    Raises:
        DataError: with reason bad_scaling.
    """
    try:
        slope, offset = header.get_slope_inter()
    except HeaderDataError as error:
        raise DataError(
            "NIfTI header: expected a finite slope and intercept; export it again", reason="bad_scaling"
        ) from error
    return None if slope is None or (slope == 1 and offset == 0) else (float(slope), float(offset))


def check_affine(affine: Float64[np.ndarray, "4 4"]) -> None:
    """Reject an affine that does not map a voxel grid to millimetres.

    Raises:
        DataError: with reason bad_affine.
    """
    if not np.isfinite(affine).all():
        raise bad_affine("expected finite numbers, got NaN or infinity")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() <= 0 or spacing.max() > MAX_SPACING_MM:
        shown = " × ".join(f"{length:g}" for length in spacing)
        raise bad_affine(f"expected a spacing above 0 and up to {MAX_SPACING_MM:g} mm, got {shown}")
    volume = abs(float(np.linalg.det(affine[:3, :3] / spacing)))
    if volume < 1e-3 or not np.array_equal(affine[3], [0, 0, 0, 1]):
        raise bad_affine("expected three axes that span space, got a singular matrix")


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


def bad_affine(problem: str) -> DataError:
    """Build the error for an invalid affine."""
    return DataError(f"position in space: {problem}; export it again", reason="bad_affine")


def _not_nifti(why: str) -> DataError:
    return DataError(
        f"expected a NIfTI-1 or NIfTI-2 image, but {why}; convert or remove it", reason="not_nifti"
    )
