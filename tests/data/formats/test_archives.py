"""Archives are unpacked safely: no traversal, no links, no bombs, a ledger row for every member."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from dicom_maker import write_series

from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.archives import unpack
from medmim.errors import DataError
from medmim.files import read_jsonl
from medmim.stages.ingest import ingest


def make_zip(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return str(path)


MEMBERS = {"a/one.dcm": b"first", "a/two": b"second", "../out": b"x", "/absolute": b"x", "c:\\x": b"x"}


def contents(found: list[dict[str, str]]) -> dict[str, bytes | str]:
    return {one["name"]: Path(one["file"]).read_bytes() if "file" in one else one["reason"] for one in found}


def test_zip(tmp_path: Path):
    found = unpack(make_zip(tmp_path / "a.zip", MEMBERS), str(tmp_path / "out"))
    outside = "path_outside_archive"
    assert contents(found) == {
        "a/one.dcm": b"first", "a/two": b"second", "../out": outside, "/absolute": outside, "c:\\x": outside
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").glob("*/*")) == ["000000.dcm", "000001"]


def test_links_in_a_zip_are_skipped(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert contents(unpack(str(tmp_path / "a.zip"), str(tmp_path / "out"))) == {"link": "link_not_followed"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path: Path, mode: str):
    found = contents(unpack(make_tar(tmp_path / "a.tar", MEMBERS, mode), str(tmp_path / "out")))
    assert found["a/one.dcm"] == b"first"
    assert found["../out"] == "path_outside_archive"
    assert [found[name] for name in ("link", "hard", "pipe")] == ["link_not_followed"] * 3


def test_a_single_gzip_file(tmp_path: Path):
    (tmp_path / "scan.dcm.gz").write_bytes(gzip.compress(b"content"))
    assert contents(unpack(str(tmp_path / "scan.dcm.gz"), str(tmp_path / "out"))) == {"scan.dcm": b"content"}


def rejection(tmp_path: Path, path: str) -> str:
    with pytest.raises(DataError, match="archive") as caught:
        unpack(path, str(tmp_path / "out"))
    return caught.value.reason


def test_a_bomb_is_rejected(tmp_path: Path):
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(100 << 20)})
    assert rejection(tmp_path, path) == "archive_too_large"
    assert sum(one.stat().st_size for one in (tmp_path / "out").glob("*/*")) <= 65 << 20


def test_too_many_members_are_rejected(tmp_path: Path):
    with pytest.raises(DataError, match="over 4 members"):
        unpack(make_zip(tmp_path / "a.zip", MEMBERS), str(tmp_path / "out"), max_members=4)


def test_damaged_archives_are_rejected(tmp_path: Path):
    for number, maker in enumerate((make_zip, lambda path, members: make_tar(path, members, "w:gz"))):
        whole = Path(maker(tmp_path / f"{number}", {"a": bytes(range(256)) * 40})).read_bytes()
        for cut in (len(whole) // 2, len(whole) - 30):
            (tmp_path / "cut").write_bytes(whole[:cut])
            with pytest.raises(DataError, match="damaged"):
                unpack(str(tmp_path / "cut"), str(tmp_path / f"out{number}{cut}"))


def test_encrypted_archives_are_rejected(tmp_path: Path):
    path = Path(make_zip(tmp_path / "a.zip", {"a": b"x"}))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.rfind(signature) + offset] |= 1
    path.write_bytes(content)
    assert rejection(tmp_path, str(path)) == "archive_encrypted"


def test_every_member_gets_a_ledger_row(tmp_path: Path):
    paths = write_series(tmp_path / "series")
    (tmp_path / "in").mkdir()
    members = {f"SENTINEL/{path.name}": path.read_bytes() for path in paths}
    inner = Path(make_zip(tmp_path / "inner.zip", {"x": b"x"})).read_bytes()
    make_zip(tmp_path / "in" / "scans.zip", {**members, "note.txt": b"x", "b.nii.gz": b"x", "i.zip": inner})
    (tmp_path / "in" / "broken.zip").write_bytes(b"PK\x03\x04 nothing")
    info = ingest(tmp_path / "in", tmp_path / "out", home=tmp_path / "home", workers=1)
    rows = list(read_jsonl(tmp_path / "out" / "ledger.jsonl"))
    assert Counter(row["reason"] for row in rows) == {
        "volume": 6, "archive_unpacked": 1, "archive_damaged": 1, "not_dicom": 1, "not_nifti": 1,
        "archive_in_archive": 1,
    }  # fmt: skip
    assert len({row["file"] for row in rows}) == len(rows) == info.counts["files_seen"] == 11
    assert len(read_dataset(tmp_path / "out").volumes) == 1
    assert "SENTINEL" not in (tmp_path / "out" / "ledger.jsonl").read_text()
