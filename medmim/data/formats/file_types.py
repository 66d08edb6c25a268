"""File types recognised by their first bytes (and, for NIfTI, the name), and the safe way to open a file."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Literal

from medmim.errors import DataError

HEAD_BYTES = 600
Kind = Literal["dicom", "bare_dicom", "nifti", "bad_dicom"]

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_OTHER_ARCHIVES = (b"7z\xbc\xaf", b"Rar!", b"(\xb5/\xfd")
_VOLUMES = (b"NRRD0", b"ObjectType", b"NDims", b"\x89HDF", b"MINC", b"CDF\x01")
_VOLUME_NAMES = (".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".mnc", ".nii.zst")
_READ_LATER = (".nrrd", ".mha", ".mhd")
_DICOM_NAMES = (".dcm", ".dicom", ".ima")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")


def open_regular(path: Path, *, follow_links: bool = True) -> io.BufferedReader:
    """Open a regular file for reading; never block on a FIFO or device.

    Raises:
        DataError: with reason unreadable.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise unreadable(error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(
            "expected a regular file, got a folder, device or pipe; remove it", reason="unreadable"
        )
    return os.fdopen(descriptor, "rb")


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
        head: the first `HEAD_BYTES` bytes.
        name: file name without its folder.
    """
    lower = name.lower()
    if lower.startswith("._"):
        return None
    if head[128:132] == b"DICM":
        return "dicom"
    if lower.endswith((".nii", ".nii.gz")):
        return "nifti"
    if head[:2] in _FIRST_GROUPS and head[3:4] == b"\0" and b"1.2.840.10008." in head:
        return "bare_dicom"
    return "bad_dicom" if lower.endswith(_DICOM_NAMES) and head else None


def skip_reason(head: bytes, name: str) -> str:
    """Return the ledger's reason for skipping a file that is neither DICOM nor NIfTI."""
    lower = name.lower()
    if not head:
        return "empty_file"
    reasons = {
        "mac_metadata": lower.startswith("._"),
        "volume_file": lower.endswith(_READ_LATER),  # read once the layout of the dataset is known
        "volume_format_not_supported": head.startswith(_VOLUMES) or lower.endswith(_VOLUME_NAMES),
        "picture": head.startswith(_PICTURES),
        "arrays": lower.endswith(".npz"),
        "archive": head.startswith(_ARCHIVES) or head[257:262] == b"ustar",
        "archive_not_supported": head.startswith(_OTHER_ARCHIVES),
    }
    return next((reason for reason, matches in reasons.items() if matches), "not_dicom")
