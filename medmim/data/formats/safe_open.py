"""DICOM files opened with distrust: no links, no waiting, no unbounded unpacking, no words from pydicom."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom import config, uid

from medmim.errors import DataError

HEAD_BYTES = 600
MAX_UNPACKED = 1 << 30
_DEFLATED = uid.DeflatedExplicitVRLittleEndian.encode()
_META_START = 132


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file, never a link, and without waiting on FIFOs and devices."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        yield stream


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning: its texts quote values of the scan."""
    mode = config.settings.reading_validation_mode
    level = config.logger.level
    config.settings.reading_validation_mode = config.IGNORE
    config.logger.setLevel("CRITICAL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = mode
        config.logger.setLevel(level)


def is_plain(path: Path) -> bool:
    """Say whether other programs can be expected to read the file: it has a preamble and is not deflated."""
    with open_regular(path) as stream:
        head = stream.read(HEAD_BYTES)
    return head[128:132] == b"DICM" and _DEFLATED not in head


def plain_stream(stream: io.BufferedIOBase) -> io.BufferedIOBase:
    """Return the stream, or what a deflated file unpacks to: elements without a preamble.

    Raises:
        DataError: with reason too_large, truncated or damaged.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if head[128:132] != b"DICM" or _DEFLATED not in head:
        return stream
    _skip_meta(stream)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(stream.read(), MAX_UNPACKED)
    except zlib.error as error:
        raise DataError("deflated file is damaged; copy it again", reason="damaged") from error
    if not unpacker.eof:
        full = len(content) >= MAX_UNPACKED
        raise DataError(
            f"deflated file: expected its end within {MAX_UNPACKED} bytes, got none; copy it again",
            reason="too_large" if full else "truncated",
        )
    return io.BytesIO(content)


def _skip_meta(stream: io.BufferedIOBase) -> None:
    """Go behind the elements of group 2, which are never deflated."""
    stream.seek(_META_START)
    while (head := stream.read(8))[:2] == b"\2\0":
        long = head[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        length = (
            struct.unpack("<I", stream.read(4).ljust(4, b"\0"))[0]
            if long
            else struct.unpack("<H", head[6:8])[0]
        )
        stream.seek(length, os.SEEK_CUR)
    stream.seek(-len(head), os.SEEK_CUR)


def read_dicom(path: Path, tags: Sequence[int | str | tuple[int, int]] | None = None) -> pydicom.FileDataset:
    """Read a whole file whose header was scanned before, and give it the transfer syntax it does not name.

    Args:
        path: the file.
        tags: the elements to read; all without it.
    """
    with open_regular(path) as raw, quiet_pydicom():
        stream = plain_stream(raw)
        dataset = pydicom.dcmread(stream, force=True, specific_tags=None if tags is None else list(tags))
        meta = dataset.file_meta
        if "TransferSyntaxUID" not in meta:
            implicit, _ = dataset.original_encoding
            meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        return dataset
