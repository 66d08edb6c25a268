"""What a file is, judged by its first bytes and, for NIfTI, its name."""

from __future__ import annotations

from typing import Literal

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


def kind_of(head: bytes, name: str) -> Kind | None:
    """Return what can be read further, or None; `skip_reason` then says why.

    Args:
        head: the first `HEAD_BYTES` bytes.
        name: the file's name, without its folder.
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
    """Return the ledger's reason for a file that is neither DICOM nor NIfTI."""
    lower = name.lower()
    if not head:
        return "empty_file"
    reasons = {
        "mac_metadata": lower.startswith("._"),
        "volume_file": lower.endswith(_READ_LATER),  # the step that knows the data set's layout reads these
        "volume_format_not_supported": head.startswith(_VOLUMES) or lower.endswith(_VOLUME_NAMES),
        "picture": head.startswith(_PICTURES),
        "arrays": lower.endswith(".npz"),
        "archive": head.startswith(_ARCHIVES) or head[257:262] == b"ustar",
        "archive_not_supported": head.startswith(_OTHER_ARCHIVES),
    }
    return next((reason for reason, fits in reasons.items() if fits), "not_dicom")
