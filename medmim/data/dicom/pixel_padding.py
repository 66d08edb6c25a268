"""Pixels outside the scanned field, which a scanner fills with one value (PixelPaddingValue).

Where that value lies far beyond all measured ones, such as -2000 beside Hounsfield units or intensities, it
would widen the range from which normalisation is computed. Such pixels get the darkest measured value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from medmim.data.formats.labels import class_numbers

Padding = tuple[float, float]
Values = Shaped[np.ndarray, "..."]
PADDING_TAGS = ("PixelPaddingValue", "PixelPaddingRangeLimit", "PixelRepresentation")
FILLED = "padding_filled"
_FAR = 0.1  # of the range of the measured values; less changes nothing that matters


def padding_range(value: Sequence[Any], limit: Sequence[Any], sign: Sequence[Any]) -> Padding | None:
    """Return the lowest and highest stored value of padding, or None where a header states none.

    Programs write the value with the wrong sign; 16 bits are read as the pixels are. 0 is the darkest value
    of most images, and stays.

    Args:
        value, limit, sign: values of the elements of `PADDING_TAGS`; pixels are signed if the last one is 1.
    """
    signed = bool(sign and sign[0])
    try:
        ends = [_number(one[0]) for one in (value, limit or value)]
    except (IndexError, TypeError, ValueError):
        return None
    if not all(map(float.is_integer, ends)) or ends[0] == 0:
        return None
    turned = [one - 65536 if signed and one >= 32768 else one for one in ends]
    turned = [one + 65536 if not signed and one < 0 else one for one in turned]
    return min(turned), max(turned)


def _number(value: Any) -> float:
    """Return a value as a number; with implicit VR, pydicom leaves it as two bytes."""
    return float(int.from_bytes(value[:2], "little") if isinstance(value, bytes) else value)


def fill_padding(values: Values, padding: Bool[np.ndarray, "..."], *, bright: bool = False) -> int:
    """Give padding far beyond all other values the darkest of them, in place; return the number of pixels.

    Args:
        padding: pixels whose stored value is padding.
        bright: the highest value is the darkest, as in an image that will be inverted.
    """
    if not padding.any() or padding.all() or class_numbers(np.atleast_3d(values)):
        return 0
    measured = values[~padding]
    low, high = float(measured.min()), float(measured.max())
    beyond = max(low - float(values[padding].max()), float(values[padding].min()) - high)
    if not beyond > _FAR * (high - low):
        return 0
    values[padding] = measured.max() if bright else measured.min()
    return int(np.count_nonzero(padding))


def is_padding(
    values: Values, ranges: Sequence[Padding | None], scales: Shaped[np.ndarray, "slices 2"]
) -> Bool[np.ndarray, "..."]:
    """Return which pixels of a stack are padding, after its rescaling.

    Args:
        values: (slices, rows, columns).
        ranges: stored values of padding of each slice; none: no slice has any.
        scales: slope and intercept of each slice.
    """
    found: Bool[np.ndarray, "..."] = np.zeros(values.shape, bool)
    for one, plane, own, (slope, intercept) in zip(found, values, ranges, scales, strict=True):
        if own is not None:
            ends = np.sort(np.array(own) * slope + intercept)
            ends = ends.astype(values.dtype) if values.dtype.kind == "f" else ends  # rounded as the values
            one[:] = (plane >= ends[0]) & (plane <= ends[1])
    return found
