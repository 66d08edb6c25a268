"""FreeSurfer volumes (.mgh, .mgz), read safely."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError

from medmim.data.formats import nifti_header
from medmim.data.formats.file_types import open_unpacked, read_into
from medmim.data.formats.nifti import Image
from medmim.errors import DataError, size_text

# mypy: disable-error-code="no-untyped-call"

MGH_NAMES = (".mgz", ".mgh")
_HEADER_BYTES, _FIELD_BYTES = 284, 90  # nibabel appends the footer behind the voxels to the fields
_RAS_FLAG = slice(28, 30)


def read_mgh(path: Path) -> Image:
    """Read a 3D volume of FreeSurfer.

    Raises:
        DataError: with reason unreadable, damaged, not_3d, not_scalar, too_large, no_orientation, bad_affine
            or truncated.
    """
    with open_unpacked(path) as (content, max_bytes):
        header = _header_of(content.read(_HEADER_BYTES))
        dims = [int(length) for length in header["dims"]]
        shape = tuple(dims if dims[3] > 1 else dims[:3])
        dtype = np.dtype(header.get_data_dtype())
        if len(shape) != 3:
            raise DataError(
                f"FreeSurfer volume of {size_text(shape)} voxels: expected 3 axes; split its frames",
                reason="not_3d",
            )
        needed = math.prod(shape) * dtype.itemsize
        if min(shape) < 1 or max(shape) > nifti_header.MAX_LENGTH or needed > nifti_header.MAX_BYTES:
            raise DataError(
                f"FreeSurfer volume of {size_text(shape)} voxels: expected up to "
                f"{nifti_header.MAX_LENGTH} along an axis and 4 GiB in total; crop it",
                reason="too_large",
            )
        if needed > max_bytes:
            raise nifti_header.truncated(needed, max_bytes)
        voxels = bytearray(needed)
        if (got := read_into(content, voxels)) < needed:
            raise nifti_header.truncated(needed, got)
    affine = np.asarray(header.get_affine(), np.float64)
    nifti_header.check_affine(affine)
    array = np.frombuffer(voxels, dtype).reshape(shape, order="F")
    return Image(array.astype(dtype.newbyteorder("="), copy=False), affine)


def _header_of(block: bytes) -> Any:
    if len(block) < _HEADER_BYTES or int.from_bytes(block[:4], "big") != 1:
        raise DataError("expected a FreeSurfer volume of version 1; copy it again", reason="damaged")
    header = MGHHeader(block[:_FIELD_BYTES].ljust(MGHHeader.template_dtype.itemsize, b"\0"), check=False)
    try:
        header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise nifti_header.not_scalar("an unknown") from error
    if int.from_bytes(block[_RAS_FLAG], "big") != 1:  # nibabel fills in an arbitrary orientation
        raise DataError(
            "FreeSurfer volume does not define left and right: expected direction cosines, got none; convert "
            "it from the original scan",
            reason="no_orientation",
        )
    return header
