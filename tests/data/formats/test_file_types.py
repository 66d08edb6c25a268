"""File types are recognised by content; only regular files are opened."""

import gzip
import os

import pytest

from medmim.data.formats.file_types import kind_of, open_regular, skip_reason
from medmim.errors import DataError

NIFTI, PAIR = ((348).to_bytes(4, "little") + bytes(340) + magic for magic in (b"n+1\0", b"ni1\0"))


@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        (bytes(128) + b"DICM", "IM0001", "dicom"),
        (b"\x08\0\x05\0" + b"1.2.840.10008.1.2", "IM0001", "bare_dicom"),
        (b"anything", "scan.NII.GZ", "nifti"),
        (NIFTI, "scan", "nifti"),
        (gzip.compress(NIFTI, mtime=0), "scan.img.gz", "nifti"),
        (gzip.compress(PAIR, mtime=0), "scan.hdr.gz", "nifti"),
        (PAIR, "scan", None),
        (b"text", "broken.dcm", "bad_dicom"),
        (bytes(128) + b"DICM", "._IM0001", None),
        (b"text", "notes.txt", None),
    ],
)
def test_kinds(head, name, kind):
    assert kind_of(head, name) == kind


@pytest.mark.parametrize(
    ("head", "name", "reason"),
    [
        (b"", "a", "empty_file"),
        (b"x", "._a", "mac_metadata"),
        (b"NRRD0005", "a.nrrd", "volume_file"),
        (b"\x89HDF", "a.h5", "volume_format_not_supported"),
        (b"\x89PNG", "a", "picture"),
        (b"PK\x03\x04", "a.npz", "arrays"),
        (b"PK\x03\x04", "a.zip", "archive"),
        (b"PK\x03\x04", "labels.xlsx", "spreadsheet"),
        (b"Rar!", "a.rar", "archive_not_supported"),
        (b"hello", "a.txt", "not_dicom"),
    ],
)
def test_skip_reasons(head, name, reason):
    assert skip_reason(head, name) == reason


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"content"
    for name, match in (("pipe", "got a folder, device or pipe"), ("absent", "FileNotFoundError")):
        with pytest.raises(DataError, match=match) as caught:
            open_regular(tmp_path / name)
        assert caught.value.reason == "unreadable"
    with pytest.raises(DataError, match="cannot be read"):
        open_regular(tmp_path / "link", follow_links=False)
