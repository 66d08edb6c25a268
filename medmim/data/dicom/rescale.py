"""Conversion of stored values to physical values: rescale slope and intercept, and lookup tables."""

from __future__ import annotations

import numpy as np
import pydicom
from jaxtyping import Float64, Shaped

from medmim.data.dicom.header import number

Stored = Shaped[np.ndarray, "slices rows columns"]
Scales = Float64[np.ndarray, "slices 2"]
Grey = Shaped[np.ndarray, "rows columns"]
_EXACT = 2**24  # float32 represents all integers up to this one


def rescale(stored: Stored, scales: Scales) -> Stored:
    """Return values with slope and intercept: integers as int16 where they fit, others as float32.

    Values without a scale keep their type; scaled integers that do not fit are int32.
    """
    if (scales == (1.0, 0.0)).all():
        short = stored.dtype.itemsize == 2 and stored.max() < 1 << 15
        return stored.astype("<i2", copy=False) if short else stored
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


def apply_tables(pixels: Grey, dataset: pydicom.FileDataset, *, invert: bool) -> tuple[Grey, dict[str, str]]:
    """Apply the tables of the header, and invert MONOCHROME1 within the range that its bits allow."""
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    low = -(2 ** (bits - 1)) if int(dataset.get("PixelRepresentation") or 0) else 0
    values, ends = pixels.astype(np.float64), np.array([low, low + 2**bits - 1], np.float64)
    if dataset.get("ModalityLUTSequence"):
        values, ends = _look_up(values, dataset.ModalityLUTSequence[0])
    else:
        slope, intercept = number(dataset, "RescaleSlope") or 1.0, number(dataset, "RescaleIntercept") or 0.0
        values, ends = values * slope + intercept, ends * slope + intercept
    if dataset.get("VOILUTSequence"):
        values, ends = _look_up(values, dataset.VOILUTSequence[0])
    if not invert or not is_inverse(dataset):
        return values, {}
    return ends.sum() - values, {"inverted": "monochrome1"}


def is_inverse(dataset: pydicom.FileDataset) -> bool:
    """Return whether larger values of an image are shown darker."""
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    return shape == "INVERSE" or bool(dataset.PhotometricInterpretation == "MONOCHROME1")


def _look_up(values: Grey, table: pydicom.Dataset) -> tuple[Grey, Shaped[np.ndarray, "2"]]:
    """Return values through a table, which is constant beyond its ends, and the range that its bits allow."""
    count, first, bits = (int(value) for value in table.LUTDescriptor)
    data = table.LUTData
    wide = bits > 8 or (isinstance(data, bytes) and len(data) >= 2 * (count or 1 << 16))
    entries = np.frombuffer(data, "<u2" if wide else "u1") if isinstance(data, bytes) else np.asarray(data)
    entries = entries[: count or 1 << 16].astype(np.float64)
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16  # a signed number that the file calls unsigned
    places = np.clip(values - first, 0, len(entries) - 1).astype(np.int64)
    return entries[places], np.array([0.0, 2.0**bits - 1.0])


def smallest_type(values: Grey) -> Grey:
    """Return integral values as integers, others as float32."""
    if values.dtype.kind in "iu":
        return values
    if (
        np.isfinite(values).all()
        and np.array_equal(values, np.rint(values))
        and np.abs(values).max() < _EXACT
    ):
        limits = np.iinfo(np.int16)
        fits = values.min() >= limits.min and values.max() <= limits.max
        return values.astype(np.int16 if fits else np.int32)
    return values.astype(np.float32)
