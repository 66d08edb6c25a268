"""Perceptual hash of scans: similar for copies that were rescaled, padded, mirrored or compressed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

_FREQUENCIES = {2: 12, 3: 6}  # cosines along each axis, by number of axes
_MAX_SIDE = {2: 512, 3: 128}  # voxels along each axis that are used, for speed and memory
_MAX_DIFFERENCE = 0.08  # share of the bits; tests/benchmarks/near_duplicates.py measures it
_TAILS = (1.0, 99.0)  # percentiles to which intensities are clipped
_FOREGROUND, _FILLED = 0.1, 0.02  # of the range of intensities; share of a plane that belongs to the object
_BLOCK = 256


def perceptual_hash(array: Shaped[np.ndarray, "*grid"]) -> str | None:
    """Return the signs of the lowest cosine coefficients in the bounding box of the object, in hexadecimal.

    Axes of one voxel are left out. Offsets and positive factors of the intensities change nothing.

    Returns:
        143 bits for pictures and 215 for volumes; None for constant images and objects of a few voxels.
    """
    image = np.squeeze(array)
    if image.ndim not in _FREQUENCIES:
        return None
    steps = (slice(None, None, -(-side // _MAX_SIDE[image.ndim])) for side in image.shape)
    image = image[tuple(steps)].astype(np.float64)
    low, high = np.percentile(image, _TAILS)
    image = np.clip(image, low, high)
    image = image[_bounding_box(image > low + _FOREGROUND * (high - low))]
    count = _FREQUENCIES[image.ndim]
    if not low < high or min(image.shape) < count:
        return None
    for side in image.shape:  # each product moves the next axis to the front
        angles = np.pi / side * np.outer(np.arange(count), np.arange(side) + 0.5)
        image = np.tensordot(image, np.cos(angles), (0, 1))
    return np.packbits(image.ravel()[1:] > 0).tobytes().hex()


def similar_pairs(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places of hashes in both lists that differ in at most 8 % of their bits, mirrored or not."""
    for axes, count in _FREQUENCIES.items():
        bits = count**axes - 1
        places = [
            [place for place, text in enumerate(hashes) if len(text) == 2 * -(-bits // 8)]
            for hashes in (first, second)
        ]
        if not all(places):
            continue
        left, right = (
            _signs([hashes[place] for place in own], bits)
            for hashes, own in zip((first, second), places, strict=True)
        )
        mirrors = _mirrors(axes)
        for start in range(0, len(left), _BLOCK):
            part = left[start : start + _BLOCK]
            agreement = np.max([(part * mirror) @ right.T for mirror in mirrors], axis=0) / bits
            for row, column in zip(*np.nonzero(agreement >= 1 - 2 * _MAX_DIFFERENCE), strict=True):
                yield places[0][start + row], places[1][column]


def _bounding_box(inside: Bool[np.ndarray, "*grid"]) -> tuple[slice, ...]:
    """Return the planes along each axis from the first to the last one that the object fills enough."""
    box = []
    for axis in range(inside.ndim):
        others = tuple(other for other in range(inside.ndim) if other != axis)
        filled = np.flatnonzero(inside.mean(axis=others) > _FILLED)
        box.append(slice(filled[0], filled[-1] + 1) if len(filled) else slice(0))
    return tuple(box)


def _signs(hashes: Sequence[str], bits: int) -> Float[np.ndarray, "n bits"]:
    """Return -1 and 1 for the bits of each hash."""
    packed = np.array([list(bytes.fromhex(text)) for text in hashes], np.uint8)
    return np.unpackbits(packed, axis=1, count=bits).astype(np.float32) * 2 - 1


def _mirrors(axes: int) -> list[Float[np.ndarray, " bits"]]:
    """Return the signs that mirroring an image along any of its axes gives its coefficients."""
    frequencies = np.indices((_FREQUENCIES[axes],) * axes).reshape(axes, -1)[:, 1:]
    chosen = np.indices((2,) * axes).reshape(axes, -1).T
    return [np.where(odd, -1, 1).astype(np.float32) for odd in (chosen @ frequencies) % 2]
