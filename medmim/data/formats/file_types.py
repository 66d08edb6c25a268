"""File types recognised by content and name, and safe ways to open and read files."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from medmim.errors import DataError
from medmim.operating_system import read_flags

HEAD_BYTES = 600
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_MAX_RATIO = 1040  # deflate compresses by at most 1032 to 1
Kind = Literal["dicom", "bare_dicom", "nifti", "bad_dicom"]

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_OTHER_ARCHIVES = (b"7z\xbc\xaf", b"Rar!", b"(\xb5/\xfd")
_VOLUMES = (b"NRRD0", b"ObjectType", b"NDims", b"\x89HDF", b"MINC", b"CDF\x01")
_VOLUME_NAMES = (".hdr", ".nhdr", ".mnc", ".nii.zst")
_VOXEL_NAMES = (".img", ".img.gz")
_READ_LATER = (".nrrd", ".mha", ".mhd", ".mgz", ".mgh")
_DICOM_NAMES = (".dcm", ".dicom", ".ima")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


def open_regular(path: Path, *, follow_links: bool = True) -> io.BufferedReader:
    """Open a regular file for reading; never block on a FIFO or device.

    Raises:
        DataError: with reason unreadable.
    """
    try:
        descriptor = os.open(path, read_flags(follow_links=follow_links))
    except OSError as error:
        raise unreadable(error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(
            "expected a regular file, got a folder, device or pipe; remove it", reason="unreadable"
        )
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """Open a file and decompress gzip on the fly; yield the stream and a bound for the bytes in it.

    Raises:
        DataError: with reason unreadable, truncated or damaged, also while the stream is read.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        packed = stream.read(2) == _GZIP_MAGIC
        stream.seek(0)
        try:
            if packed:
                with gzip.GzipFile(fileobj=stream, mode="rb") as content:
                    yield content, size * _GZIP_MAX_RATIO
            else:
                yield stream, size
        except EOFError as error:
            raise DataError(
                "file ends early: its compressed data is incomplete; copy it again", reason="truncated"
            ) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                "file is damaged: its compressed data fails the checksum; copy it again", reason="damaged"
            ) from error
        except OSError as error:
            raise unreadable(error) from error


def skip_bytes(content: io.BufferedIOBase, count: int) -> None:
    """Read and discard bytes; stop at the end of the file."""
    while count > 0:
        piece = content.read(min(1 << 22, count))
        if not piece:
            return
        count -= len(piece)


def read_into(content: io.BufferedIOBase, target: bytearray) -> int:
    """Read into `target` until it is full or the file ends; return the number of bytes read."""
    view, done = memoryview(target), 0
    while done < len(target):
        piece = content.read(min(1 << 22, len(target) - done))
        if not piece:
            break
        view[done : done + len(piece)] = piece
        done += len(piece)
    return done


def unreadable(error: OSError) -> DataError:
    """Build the error for a file that the operating system refuses to open or read."""
    return DataError(
        f"file cannot be read ({type(error).__name__}): expected a regular file with read permission; check "
        "its permissions and the disk",
        reason="unreadable",
    )


def kind_of(head: bytes, name: str) -> Kind | None:
    """Return the type of a DICOM or NIfTI file; None for any other file (see `skip_reason`).

    Args:
        name: file name without its folder.
    """
    lower = name.lower()
    if lower.startswith("._"):
        return None
    if head[128:132] == b"DICM":
        return "dicom"
    pair = lower.endswith((".hdr", ".hdr.gz"))
    if lower.endswith((".nii", ".nii.gz")) or any(_is_nifti(one, pair) for one in (head, _unpacked(head))):
        return "nifti"
    if head[:2] in _FIRST_GROUPS and head[3:4] == b"\0" and b"1.2.840.10008." in head:
        return "bare_dicom"
    return "bad_dicom" if lower.endswith(_DICOM_NAMES) and head else None


def _is_nifti(head: bytes, pair: bool) -> bool:
    """Return whether a file begins with a NIfTI-1 header, of a single file or also of a pair."""
    size = head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c")
    return size and head[344:348] in ((b"n+1\0", b"ni1\0") if pair else (b"n+1\0",))


def _unpacked(head: bytes) -> bytes:
    """Return the first bytes of a gzip file; none if it is no gzip file."""
    if not head.startswith(_GZIP_MAGIC):
        return b""
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def skip_reason(head: bytes, name: str) -> str:
    """Return the ledger's reason for skipping a file that is neither DICOM nor NIfTI."""
    lower = name.lower()
    if not head:
        return "empty_file"
    reasons = {
        "mac_metadata": lower.startswith("._"),
        "voxels_of_a_pair": lower.endswith(_VOXEL_NAMES),  # read together with the .hdr file
        "volume_file": lower.endswith(_READ_LATER),  # read once the layout of the dataset is known
        "volume_format_not_supported": head.startswith(_VOLUMES) or lower.endswith(_VOLUME_NAMES),
        "lidc_xml_not_supported": b"LidcReadMessage" in head,
        "picture": head.startswith(_PICTURES) or (lower.endswith((".ppm", ".pgm")) and head[:1] == b"P"),
        "arrays": lower.endswith((".npz", ".npy")),
        "spreadsheet": lower.endswith((".xlsx", ".xls", ".ods")),
        "archive": head.startswith(_ARCHIVES) or head[257:262] == b"ustar",
        "archive_not_supported": head.startswith(_OTHER_ARCHIVES),
    }
    return next((reason for reason, matches in reasons.items() if matches), "not_dicom")
