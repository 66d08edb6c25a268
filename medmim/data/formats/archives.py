"""Zip, tar and gzip archives unpacked safely: generated file names, no links, bounded size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import secrets
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from medmim.data.formats.file_types import open_regular
from medmim.errors import DataError

MAX_MEMBERS = 100_000
MAX_BYTES = 32 << 30
MAX_RATIO = 200  # scans compress to a tenth at best; bombs to a thousandth
_FREE_BYTES = 64 << 20  # the ratio is checked beyond this size only
_CHUNK_BYTES = 1 << 20
# the suffix identifies the file type; nothing else of a member's name is kept
_SUFFIXES = (
    ".nii.gz", ".nii", ".dcm", ".ima", ".dicom", ".nrrd", ".mha", ".mhd", ".hdr", ".img", ".mgz", ".npz",
    ".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".csv", ".json", ".jsonl", ".txt",
    ".yaml", ".yml",
)  # fmt: skip
_OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, OSError,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class _Member(NamedTuple):
    """A member of an archive; `reason` is set if it must not be unpacked."""

    name: str
    reason: str | None
    content: Any


class _Budget:
    """Counts members and bytes, and rejects archives beyond the limits."""

    def __init__(self, packed_bytes: int, max_members: int) -> None:
        self._packed = max(1, packed_bytes)
        self._max_members = max_members
        self._members = 0
        self._bytes = 0

    def add_member(self) -> None:
        self._members += 1
        if self._members > self._max_members:
            raise _too_large(f"over {self._max_members} members")

    def add_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > MAX_BYTES:
            raise _too_large(f"over {MAX_BYTES >> 30} GiB")
        if self._bytes > max(_FREE_BYTES, MAX_RATIO * self._packed):
            raise _too_large(f"over {MAX_RATIO} times its compressed size")


def unpack(path: str, target: str, *, max_members: int = MAX_MEMBERS) -> list[dict[str, Any]]:
    """Unpack an archive into a new folder below `target`; run in a sandbox.

    Files get generated names. Links, devices and names that point outside the archive are not unpacked.

    Returns:
        For each member its `name`, and its `file` in the folder or the `reason` why it was not unpacked.

    Raises:
        DataError: with reason archive_too_large, archive_encrypted or archive_damaged.
    """
    folder = Path(target) / secrets.token_hex(4)  # a repeated attempt gets a new folder
    folder.mkdir(parents=True)
    unpacked: list[dict[str, Any]] = []
    with open_regular(Path(path), follow_links=False) as stream:
        budget = _Budget(stream.seek(0, io.SEEK_END), max_members)
        stream.seek(0)
        try:
            for number, member in enumerate(_members(stream, Path(path).name)):
                budget.add_member()
                unpacked.append({"name": member.name, **_extract(member, folder, number, budget)})
        except _DAMAGE as error:
            raise DataError("archive is damaged; copy it again", reason="archive_damaged") from error
    return unpacked


def _extract(member: _Member, folder: Path, number: int, budget: _Budget) -> dict[str, Any]:
    if member.reason:
        return {"reason": member.reason}
    name = PurePosixPath(member.name.replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        return {"reason": "path_outside_archive"}
    suffix = next((end for end in _SUFFIXES if name.name.lower().endswith(end)), "")
    prefix = "._" if name.name.startswith("._") else ""  # resource forks of macOS are recognised by it
    target = folder / f"{prefix}{number:06d}{suffix}"
    with target.open("wb") as out:
        while chunk := member.content.read(_CHUNK_BYTES):
            budget.add_bytes(len(chunk))
            out.write(chunk)
    return {"file": str(target)}


def _members(stream: io.BufferedIOBase, name: str) -> Iterator[_Member]:
    head = stream.read(4)
    stream.seek(0)
    if head[:2] == b"PK":
        yield from _zip_members(stream)
        return
    opener = _OPENERS.get(head[:2])
    content: Any = stream if opener is None else opener(stream)
    magic = content.read(512)[257:262]
    content.seek(0)
    if b"ustar" in magic:
        yield from _tar_members(content)
    else:
        yield _Member(name.rpartition(".")[0] or name, None, content)


def _zip_members(stream: io.BufferedIOBase) -> Iterator[_Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise DataError("archive is encrypted; unpack it first", reason="archive_encrypted")
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
                yield _Member(info.filename, "link_not_followed", None)
                continue
            with archive.open(info) as content:
                yield _Member(info.filename, None, content)


def _tar_members(stream: Any) -> Iterator[_Member]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            if info.isreg():
                yield _Member(info.name, None, archive.extractfile(info))
            elif not info.isdir():
                yield _Member(info.name, "link_not_followed", None)


def _too_large(what: str) -> DataError:
    return DataError(
        f"archive unpacks to {what}, expected scans; unpack it yourself", reason="archive_too_large"
    )
