"""A stack of uncompressed slices becomes one volume: their bytes are their values, so nothing is decoded.

The scan noted where in each file the pixels lie. Slices must still be the files that were scanned, lie by
their own headers on the grid of the stack, and use no more bits than they say; what is unusual in the last
respect goes through the decoders of `convert`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from medmim.data.dicom.convert import MAX_VOXELS_OFF, convert
from medmim.data.dicom.pixel_data import RawPixelData
from medmim.data.formats.file_types import open_regular
from medmim.data.formats.geometry import Affine, slice_corners
from medmim.data.formats.nifti import Image, check_image
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError

Stored = Shaped[np.ndarray, "slices rows columns"]
Scales = Float64[np.ndarray, "slices 2"]
_EXACT = 2**24  # float32 holds every whole number up to here


def convert_raw(
    files: Sequence[str],
    affine: Sequence[Sequence[float]],
    scales: Sequence[Sequence[float]],
    *,
    staging: str,
    target: str,
    size: Sequence[int],
    raws: Sequence[tuple[int, int, bool, int]],
    places: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """Read the slices of one stack, check the volume and write it; meant for a sandbox.

    Args:
        files: path of the file of each slice, in order along the normal.
        affine: grid of the headers, (column, row, slice) to mm in RAS.
        scales: rescale slope and intercept of each slice.
        staging: folder that this call may make and remove.
        target: path of the volume.
        size: rows and columns of a slice.
        raws: `RawPixelData` of each slice.
        places: position, row and column direction times spacing of each slice by its own header: nine
            lengths in mm (LPS).

    Returns:
        The volume's facts, or `reason` and `measured`.
    """
    grid, scale = np.asarray(affine, np.float64), np.asarray(scales, np.float64)
    deviation = _deviation(np.asarray(places, np.float64), grid, size)
    if deviation > MAX_VOXELS_OFF * float(np.linalg.norm(grid[:3, :3], axis=0).min()):
        return {"reason": "geometry_mismatch", "measured": {"deviation_mm": deviation}}
    try:
        stored = _read(files, [RawPixelData(*raw) for raw in raws], size)
        if stored is None:
            return convert(files, affine, scales, staging=staging, target=target, size=size)
        image = Image(_scaled(stored, scale).transpose(2, 1, 0), grid)
        check_image(image)
        measured = {"deviation_mm": round(deviation, 6), "slices_uncompressed": float(len(files))}
        return {**write_volume(image, Path(target)), "measured": measured}
    except DataError as error:
        return {"reason": error.reason, "measured": {}}


def _deviation(places: Float64[np.ndarray, "slices 9"], grid: Affine, size: Sequence[int]) -> float:
    """Return how far the corners of slices, by their own headers, are from the grid, in mm."""
    planned = np.tile(np.concatenate([grid[:3, 3], grid[:3, 0], grid[:3, 1]]), (len(places), 1))
    planned[:, :3] += np.arange(len(places))[:, None] * grid[:3, 2]
    planned *= np.tile([-1.0, -1.0, 1.0], 3)  # RAS to LPS
    difference = slice_corners(places, size) - slice_corners(planned, size)
    return float(np.linalg.norm(difference, axis=2).max())


def _read(files: Sequence[str], raws: Sequence[RawPixelData], size: Sequence[int]) -> Stored | None:
    """Return the stored values; None if some have bits set that the header calls unused.

    Raises:
        DataError: with reason changed_since_scan.
    """
    signed = raws[0].signed
    if any(raw.signed != signed for raw in raws):
        return None
    stored: Stored = np.empty((len(files), *size), np.dtype("<i2" if signed else "<u2"))
    for values, file, raw in zip(stored, files, raws, strict=True):
        with open_regular(Path(file), follow_links=False) as stream:
            changed = os.fstat(stream.fileno()).st_mtime_ns != raw.written
            stream.seek(raw.start)
            if changed or stream.readinto(values.view(np.uint8).reshape(-1)) != values.nbytes:
                raise DataError(
                    "file changed while it was read: expected one that is complete; ingest again when "
                    "nothing writes to the source",
                    reason="changed_since_scan",
                )
        lowest, beyond = (-(1 << raw.bits - 1), 1 << raw.bits - 1) if signed else (0, 1 << raw.bits)
        if raw.bits < 16 and not (lowest <= values.min() and values.max() < beyond):
            return None
    return stored


def _scaled(stored: Stored, scales: Scales) -> Stored:
    """Return values with slope and intercept: whole numbers as int16 where they fit, others as float32.

    Values without a scale keep their 16 bits; scaled whole numbers that do not fit are int32.
    """
    if (scales == (1.0, 0.0)).all():
        return stored.view("<i2") if stored.max() < 1 << 15 else stored
    extremes = np.stack([stored.min(axis=(1, 2)), stored.max(axis=(1, 2))], axis=1).astype(np.float64)
    ends = extremes * scales[:, :1] + scales[:, 1:]
    whole = np.array_equal(scales, np.rint(scales)) and max(np.abs(ends).max(), np.abs(scales).max()) < _EXACT
    limits = np.iinfo(np.int16)
    short = limits.min <= ends.min() and ends.max() <= limits.max
    kind = np.float32 if not whole else np.int16 if short else np.int32
    between = np.int32 if whole else np.float64  # products may wrap around; the sums, which fit, are right
    values: Stored = np.empty(stored.shape, kind)
    for one, raw, (slope, intercept) in zip(values, stored, scales, strict=True):
        one[:] = raw.astype(between) * between(slope) + between(intercept)
    return values
