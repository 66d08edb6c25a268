"""DICOM files are opened without following links, blocking or unbounded inflation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dicom_maker import make_slice
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medmim.data.formats.file_types import open_regular
from medmim.data.formats.safe_open import is_plain, plain_stream, read_dicom
from medmim.errors import DataError


def deflated(path: Path) -> bytes:
    dataset = make_slice(0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def test_links_and_pipes_are_rejected(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(DataError, match="regular file"):
            open_regular(tmp_path / name, follow_links=False)


def test_plain_files_are_recognised(tmp_path: Path):
    make_slice(0).save_as(tmp_path / "file", enforce_file_format=True)
    assert is_plain(tmp_path / "file")
    (tmp_path / "bare").write_bytes((tmp_path / "file").read_bytes()[132:])
    deflated(tmp_path / "deflated")
    assert not is_plain(tmp_path / "bare")
    assert not is_plain(tmp_path / "deflated")
    for name in ("file", "bare", "deflated"):
        assert (read_dicom(tmp_path / name).pixel_array == make_slice(0).pixel_array).all()


@pytest.mark.parametrize(("limit", "reason"), [(100, "too_large"), (1 << 20, "damaged")])
def test_inflation_is_bounded(tmp_path: Path, limit: int, reason: str):
    content = bytearray(deflated(tmp_path / "file"))
    if reason == "damaged":
        content[-40:] = bytes(b ^ 255 for b in content[-40:])
    (tmp_path / "file").write_bytes(content)
    with open_regular(tmp_path / "file") as stream, pytest.raises(DataError, match="deflated file") as caught:
        plain_stream(stream, max_bytes=limit)
    assert caught.value.reason in (reason, "truncated")


def test_truncated_deflated_file(tmp_path: Path):
    content = deflated(tmp_path / "file")
    (tmp_path / "file").write_bytes(content[:-50])
    with (
        open_regular(tmp_path / "file") as stream,
        pytest.raises(DataError, match="expected its end") as caught,
    ):
        plain_stream(stream)
    assert caught.value.reason == "truncated"
