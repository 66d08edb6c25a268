"""Whether a DICOM file holds all the pixel bytes that its header promises; nothing is decoded here."""

from __future__ import annotations

import io
import struct

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_MAX_FRAGMENTS = 100_000
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")


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
