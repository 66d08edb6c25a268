"""Safe reading of DICOM files: no links, no blocking, bounded inflation, no header values in warnings."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
from pydicom import config, uid

from medmim.data.formats.file_types import HEAD_BYTES, open_regular
from medmim.errors import DataError

MAX_INFLATED_BYTES = 1 << 30
_DEFLATED = uid.DeflatedExplicitVRLittleEndian.encode()
_META_START = 132


@contextlib.contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings, which quote header values."""
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    config.logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = mode
        config.logger.disabled = False


@contextlib.contextmanager
def damage_named() -> Iterator[None]:
    """Turn whatever pydicom raises for damaged elements into a DataError with reason `damaged`.

    Errors of ours, of the memory and of the operating system pass.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged value can make pydicom raise almost anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError("an element is missing or damaged; copy the file again", reason="damaged") from error


def is_plain(path: Path) -> bool:
    """Return whether other programs can read the file: it has a preamble and is not deflated."""
    with open_regular(path, follow_links=False) as stream:
        head = stream.read(HEAD_BYTES)
    return head[128:132] == b"DICM" and _DEFLATED not in head


def plain_stream(stream: io.BufferedIOBase, *, max_bytes: int = MAX_INFLATED_BYTES) -> io.BufferedIOBase:
    """Return the stream itself, or the inflated data elements (without preamble) of a deflated file.

    Raises:
        DataError: with reason too_large, truncated or damaged.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if head[128:132] != b"DICM" or _DEFLATED not in head:
        return stream
    _skip_meta(stream)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(stream.read(), max_bytes)
    except zlib.error as error:
        raise DataError("deflated file is damaged; copy it again", reason="damaged") from error
    if not inflater.eof:
        raise DataError(
            f"deflated file: expected its end within {max_bytes} bytes, got none; copy it again",
            reason="too_large" if len(content) >= max_bytes else "truncated",
        )
    return io.BytesIO(content)


def read_dicom(path: Path, tags: Sequence[int | str | tuple[int, int]] | None = None) -> pydicom.FileDataset:
    """Read a file whose header was scanned before; fill in a missing transfer syntax.

    Args:
        tags: data elements to read; all by default.
    """
    with open_regular(path, follow_links=False) as raw, quiet_pydicom():
        stream = plain_stream(raw)
        dataset = pydicom.dcmread(stream, force=True, specific_tags=None if tags is None else list(tags))
        meta = dataset.file_meta
        if "TransferSyntaxUID" not in meta:
            implicit, _ = dataset.original_encoding
            meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        return dataset


def _skip_meta(stream: io.BufferedIOBase) -> None:
    """Move past the elements of group 2, which are never deflated."""
    stream.seek(_META_START)
    while (head := stream.read(8))[:2] == b"\2\0":
        if head[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
            (length,) = struct.unpack("<I", stream.read(4).ljust(4, b"\0"))
        else:
            (length,) = struct.unpack("<H", head[6:8])
        stream.seek(length, os.SEEK_CUR)
    stream.seek(-len(head), os.SEEK_CUR)
