"""Where the pixels of a DICOM file lie, and whether all that its header promises are there."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_MAX_FRAGMENTS = 100_000
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")


class RawPixelData(NamedTuple):
    """Where one uncompressed slice of 16 bits a pixel, low byte first, lies in its file.

    `start` is the place of its first byte, `bits` how many of the 16 are in use, `written` the time of the
    file's last change in ns, by which a file that changes between scan and conversion is noticed.
    """

    start: int
    bits: int
    signed: bool
    written: int


def raw_start(stream: io.BufferedIOBase, expected: int, *, implicit: bool) -> int | None:
    """Return where the pixels begin if exactly `expected` bytes of them follow, else None.

    Args:
        stream: open at the tag of the pixel data of a file with low bytes first; it stays where it is.
        expected: bytes that rows, columns and bits call for.
        implicit: elements do not name their type.
    """
    place = stream.tell()
    head = stream.read(12)
    stream.seek(place)
    if len(head) < 12 or (head[4:6] in _LONG) == implicit:
        return None
    length = struct.unpack("<I", head[4:8] if implicit else head[8:12])[0]
    return place + (8 if implicit else 12) if length == expected else None


def missing_pixels(
    stream: io.BufferedIOBase, size: int, expected: int, *, little: bool
) -> dict[str, float] | None:
    """Return the promised and the present number of bytes if some are missing, else None.

    Args:
        stream: open at the tag of the pixel data.
        size: bytes in the file.
        expected: bytes that rows, columns and bits call for, for uncompressed data.
        little: byte order of the file.
    """
    order = "<" if little else ">"
    head = stream.read(12)
    if len(head) < 12:
        return {"expected_bytes": float(expected), "found_bytes": 0.0}
    explicit = head[4:6] in _LONG
    length = struct.unpack(order + "I", head[8:12] if explicit else head[4:8])[0]
    start = stream.tell() - (0 if explicit else 4)
    if length == _UNDEFINED:
        stream.seek(start)
        return _missing_fragments(stream, size)
    found = min(length, size - start)
    wanted = max(expected, min(length, expected + 1))
    return None if found >= wanted else {"expected_bytes": float(wanted), "found_bytes": float(max(found, 0))}


def _missing_fragments(stream: io.BufferedIOBase, size: int) -> dict[str, float] | None:
    """Follow the fragments of compressed pixels; the first item is a table of their places, mostly empty."""
    fragments = 0
    for _ in range(_MAX_FRAGMENTS):
        head = stream.read(8)
        if len(head) < 8:
            break
        group, element, length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if tag != _ITEM:
            return None if tag == _END and fragments else {"fragments": float(fragments)}
        end = stream.seek(length, 1)
        if end > size:
            return {"expected_bytes": float(end), "found_bytes": float(size)}
        fragments += length > 0
    return {"fragments": float(fragments)}
