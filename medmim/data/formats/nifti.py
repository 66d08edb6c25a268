"""NIfTI files from any source, read safely into `Image`, the array and affine used throughout medmim.

Error messages contain no file names, because file names identify patients.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped
from nibabel.orientations import aff2axcodes

from medmim.data.formats import nifti_header
from medmim.data.formats.file_types import open_unpacked, read_into, skip_bytes
from medmim.data.formats.nifti_affine import affine_of
from medmim.errors import DataError, size_text

_TIME_UNITS = (8, 16, 24)  # seconds, milliseconds, microseconds
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in PIL


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


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image from a file, the repairs made to it, and the measurements that explain them."""

    image: Image
    repairs: tuple[str, ...] = ()
    measured: dict[str, float] = field(default_factory=dict)


def read_image(path: Path) -> Image:
    """Read a 2D or 3D NIfTI file; see `load_nifti`."""
    return load_nifti(path).image


def load_nifti(path: Path, *, frame: int | None = None) -> LoadedImage:
    """Read a .nii or .nii.gz file, or a pair of .hdr and .img, from an untrusted source.

    Integers without scaling keep their type; colours become grey values; all other voxels become float32.
    `nifti_affine` documents which of sform, qform and pixdim is used. No more bytes are read or decompressed
    than the header declares.

    Args:
        path: the file; of a pair, its header.
        frame: index along the fourth axis; None for a file without one.

    Raises:
        DataError: with reason unreadable, not_nifti, bad_dims, too_large, not_3d, not_scalar, bad_scaling,
            no_orientation, bad_affine, contradictory_spacing, contradictory_orientation, truncated, damaged.
    """
    with open_unpacked(path) as (content, max_bytes):
        header = nifti_header.read_header(content)
        if not nifti_header.is_pair(header):
            return _read_voxels(header, content, max_bytes, frame)
    with open_unpacked(_voxel_file(path)) as (content, max_bytes):
        return _read_voxels(header, content, max_bytes, frame)


def count_frames(path: str) -> int:
    """Return the length of the fourth axis of a NIfTI file, 1 without one, from its header.

    Raises:
        DataError: if the header is invalid.
    """
    return frames_of(path)[0]


def frames_of(path: str) -> tuple[int, bool]:
    """Return the length of the fourth axis, and whether the header gives it a step of time.

    A step of 1 counts as none, because converters write it for channels too.

    Raises:
        DataError: if the header is invalid.
    """
    with open_unpacked(Path(path)) as (content, _):
        header = nifti_header.read_header(content)
        shape = nifti_header.shape_of(header)
    timed = int(header["xyzt_units"]) & 0x38 in _TIME_UNITS and float(header["pixdim"][4]) not in (0.0, 1.0)
    return (shape[3], timed) if len(shape) > 3 else (1, False)


def check_image(image: Image, *, picture: bool = False) -> None:
    """Reject a volume without any information, or with an invalid affine.

    Args:
        picture: whether the image is a 2D picture, stored as a volume of one slice.

    Raises:
        DataError: with reason too_few_slices, bad_affine, non_finite_voxels or constant_image.
    """
    if min(image.array.shape[: 2 if picture else 3]) < 2:
        raise DataError(
            f"volume of {size_text(image.array.shape)} voxels: expected at least 2 along each axis; "
            "a single slice is not a volume",
            reason="too_few_slices",
        )
    nifti_header.check_affine(image.affine)
    if image.array.dtype.kind == "f" and (wrong := int(np.count_nonzero(~np.isfinite(image.array)))):
        raise DataError(
            f"expected no NaN or infinite voxels, got {wrong}; export it again", reason="non_finite_voxels"
        )
    if image.array.min() == image.array.max():
        raise DataError(
            "volume has one value everywhere, expected an image; remove it", reason="constant_image"
        )


def _voxel_file(header: Path) -> Path:
    """Return the .img file next to a .hdr file."""
    stem = header.name.removesuffix(".gz").rpartition(".")[0]
    found = [one for end in (".img", ".img.gz", ".IMG") if (one := header.with_name(stem + end)).is_file()]
    if not found:
        raise DataError(
            "NIfTI header without voxels: expected an .img file of the same name next to it; copy both files",
            reason="detached_data",
        )
    return found[0]


def _read_voxels(header: Any, content: io.BufferedIOBase, max_bytes: int, frame: int | None) -> LoadedImage:
    """Read one volume; `max_bytes` bounds the data that the file can contain."""
    shape, dtype = nifti_header.shape_of(header), nifti_header.dtype_of(header)
    if (len(shape) > 3) != (frame is not None) or (frame is not None and frame >= shape[3]):
        raise DataError(
            f"NIfTI file has {len(shape)} axes ({size_text(shape)}), expected 3; ingest the time "
            "points of a series with --time-series volumes",
            reason="time_series",
        )
    needed = math.prod(shape[:3]) * dtype.itemsize
    if needed > nifti_header.MAX_BYTES:
        limit = nifti_header.MAX_BYTES / 2**30
        raise DataError(
            f"NIfTI file contains {needed / 2**30:.1f} GiB of voxels, expected up to {limit:g}; crop it",
            reason="too_large",
        )
    grid = affine_of(header, shape)
    offset, repairs = nifti_header.offset_of(header)
    whole = offset + needed * math.prod(shape[3:])
    if whole > max_bytes:
        raise nifti_header.truncated(whole, max_bytes)
    start = 0 if nifti_header.is_pair(header) else len(header.binaryblock)
    skip_bytes(content, offset + needed * (frame or 0) - start)
    voxels = bytearray(needed)
    got = read_into(content, voxels)
    if got < needed:
        raise nifti_header.truncated(needed, got)
    if not shape[3:] or frame == shape[3] - 1:
        content.read(1)  # at the end of compressed data this verifies the checksum
    array = np.frombuffer(voxels, dtype).reshape(shape[:3], order="F")
    repairs = (*repairs, *grid.repairs, *(["colour_to_grey"] if dtype == nifti_header.RGB else []))
    measured = grid.measured
    if not math.isfinite(float(header["scl_slope"])):  # a slope of 0 means no scaling
        repairs = (*repairs, "non_finite_slope_ignored")
        measured = {**measured, "slope_used": 1.0, "intercept_used": 0.0}
    return LoadedImage(Image(_values(array, header), grid.affine), repairs, measured)


def _values(array: Shaped[np.ndarray, "x y z"], header: Any) -> Shaped[np.ndarray, "x y z"]:
    if array.dtype == nifti_header.RGB:
        colours = np.stack([array[name] for name in "RGB"], axis=-1)
        return np.asarray(np.rint(colours @ _LUMINANCE), np.uint8)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    scaling = nifti_header.scaling_of(header)
    if scaling is None and array.dtype.kind in "iu":
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # `check_image` counts infinite voxels
        if scaling is not None:
            array = array.astype(np.float64) * scaling[0] + scaling[1]
        return array.astype(np.float32)
