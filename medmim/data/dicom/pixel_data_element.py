"""The pixel data of a file: its offset, whether some of it is missing, and whether it looks compressed."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD
_MAX_FRAGMENTS = 100_000
_LONG = (b"OB", b"OW", b"OF", b"OD", b"UN")
_COMPRESSED_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xfe\xff\x00\xe0")  # JPEG, JPEG 2000, an item


class RawPixelData(NamedTuple):
    """Location of one uncompressed slice of 16 bits per pixel, little endian.

    `start` is the offset of its first byte, `bits` the number of used bits of the 16, `modified_ns` the
    modification time of the file, which detects a file that changes between scan and conversion.
    """

    start: int
    bits: int
    signed: bool
    modified_ns: int


class PixelDataElement(NamedTuple):
    """The pixel data element: offset of its content, length (None if undefined) and first bytes."""

    start: int
    length: int | None
    head: bytes

    @property
    def looks_compressed(self) -> bool:
        """Whether the content begins like a compressed image, whatever the transfer syntax states."""
        rle_segments, first_offset = struct.unpack("<II", self.head[:8].ljust(8, b"\0"))
        return self.head.startswith(_COMPRESSED_STARTS) or (1 <= rle_segments <= 15 and first_offset == 64)


def read_element(stream: io.BufferedIOBase, *, little: bool) -> PixelDataElement | None:
    """Return the pixel data element at the stream's position, which is kept; None if the file ends before it.

    Args:
        stream: open at the tag of the pixel data.
    """
    place = stream.tell()
    head = stream.read(12)
    explicit = head[4:6] in _LONG
    stream.seek(place + (12 if explicit else 8))
    content = stream.read(12)
    stream.seek(place)
    if len(head) < 12:
        return None
    length = struct.unpack(("<" if little else ">") + "I", head[8:12] if explicit else head[4:8])[0]
    return PixelDataElement(
        place + (12 if explicit else 8), None if length == _UNDEFINED else length, content
    )


def missing_pixels(
    stream: io.BufferedIOBase, element: PixelDataElement | None, size: int, expected: int
) -> dict[str, float] | None:
    """Return the expected and found numbers of bytes if pixel data are missing, else None.

    Args:
        element: its pixel data element.
        size: number of bytes in the file.
        expected: number of bytes that rows, columns and bits call for, if the pixels are uncompressed.
    """
    if element is None:
        return {"expected_bytes": float(expected), "found_bytes": 0.0}
    if element.length is None:
        stream.seek(element.start)
        return _missing_fragments(stream, size)
    found = min(element.length, size - element.start)
    wanted = max(expected, min(element.length, expected + 1))
    return None if found >= wanted else {"expected_bytes": float(wanted), "found_bytes": float(max(found, 0))}


def _missing_fragments(stream: io.BufferedIOBase, size: int) -> dict[str, float] | None:
    """Check that all fragments of compressed pixels are present; the first item is the offset table."""
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
