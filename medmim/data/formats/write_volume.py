"""Volumes written to the dataset as NIfTI without text in the header, and their manifest entries."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import isal_zlib
from jaxtyping import Shaped

from medmim import files
from medmim.data.dataset.perceptual_hash import perceptual_hash
from medmim.data.formats import nifti_header
from medmim.data.formats.geometry import nearest_ras
from medmim.data.formats.nifti import Image

_GZIP = 16  # added to wbits: zlib writes a gzip stream without name and time
_COMPRESSION_LEVEL = 1  # 3 to 5 % larger than level 6 of zlib, in a sixth of its time
_INTEGERS = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def write_volume(image: Image, target: Path) -> dict[str, Any]:
    """Write a checked volume and return its manifest entries; the caller flushes the file to the disk."""
    content = encode_image(image)
    files.write_bytes(target, content, lasting=False)
    return {
        "shape": list(image.array.shape),
        "spacing_mm": [round(length, 6) for length in image.spacing_mm],
        "orientation": image.orientation,
        "sha256": hashlib.sha256(content).hexdigest(),
        "pixels_sha256": pixels_digest(image),
        "perceptual_hash": perceptual_hash(nearest_ras(image).array),
    }


def encode_image(image: Image) -> bytes:
    """Return the volume as a .nii.gz file; equal images give equal bytes.

    Booleans become uint8, wide integers the smallest type that represents them, wide floats float32.

    Raises:
        DataError: with reason not_scalar for other voxel types.
    """
    array = _compact(image.array)
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1.0, 0.0)
    header.set_xyzt_units("mm", "unknown")
    header.set_qform(image.affine, code=1, strip_shears=True)
    if not np.allclose(header.get_qform(), image.affine, rtol=0.0, atol=1e-4 * min(image.spacing_mm)):
        header.set_qform(None, code=0)  # no quaternion represents a sheared grid; the sform does
        header.set_zooms(image.spacing_mm)
    header.set_sform(image.affine, code=1)
    header["magic"] = b"n+1"
    header["vox_offset"] = header.single_vox_offset
    packer = isal_zlib.compressobj(_COMPRESSION_LEVEL, wbits=zlib.MAX_WBITS | _GZIP)
    voxels = np.asfortranarray(array).reshape(-1, order="F").view(np.uint8)  # copies only if it must
    parts = (header.binaryblock + bytes(4), voxels)  # four zero bytes: no extensions follow
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def pixels_digest(image: Image) -> str:
    """Return a SHA-256 of the voxels in the order left to right, back to front, foot to head.

    It ignores axis order, data type, spacing and position: a scan that was converted, renamed or moved keeps
    its digest.
    """
    array = nearest_ras(image).array
    digest = hashlib.sha256(repr(array.shape).encode())
    for index in range(array.shape[-1]):  # a float copy of a whole CT would double its memory
        digest.update(np.ascontiguousarray(array[..., index], np.float32).data)
    return digest.hexdigest()


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
