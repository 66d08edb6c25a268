"""Zip, tar and gzip files: their members, unpacked under names of our own and within bounds."""

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

from medmim.data.formats.safe_open import open_regular
from medmim.errors import DataError

MAX_MEMBERS = 100_000
MAX_BYTES = 32 << 30
MAX_RATIO = 200  # scans shrink to a tenth at best; bombs to a thousandth
_FREE_BYTES = 64 << 20  # before this no ratio is asked for
_PIECE = 1 << 20
# endings by which files are told apart; a member keeps no more of its name
_SUFFIXES = (
    ".nii.gz", ".nii", ".dcm", ".ima", ".dicom", ".nrrd", ".mha", ".mhd", ".hdr", ".img", ".mgz", ".npz",
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".csv", ".json", ".jsonl", ".txt", ".yaml", ".yml",
)  # fmt: skip
_OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, OSError,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class _Member(NamedTuple):
    """A member: its name in the archive, why it is not unpacked, and its content."""

    name: str
    reason: str | None
    content: Any


class _Budget:
    """Counts members and bytes, and stops what is no archive of scans."""

    def __init__(self, packed_bytes: int) -> None:
        self._packed = max(1, packed_bytes)
        self._members = 0
        self._bytes = 0

    def member(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise _too_much(f"over {MAX_MEMBERS} members")

    def spend(self, count: int) -> None:
        self._bytes += count
        if self._bytes > MAX_BYTES:
            raise _too_much(f"over {MAX_BYTES >> 30} GiB")
        if self._bytes > max(_FREE_BYTES, MAX_RATIO * self._packed):
            raise _too_much(f"over {MAX_RATIO} times its packed size")


def unpack(path: str, target: str) -> list[dict[str, Any]]:
    """Unpack an archive's files into a folder; meant for a sandbox.

    Names in the archive are told, not used; links, devices and names that lead elsewhere are not unpacked.

    Args:
        path: the archive.
        target: folder that is made for the members, below which they lie.

    Returns:
        For each member its `name`, and the `file` in the folder or the `reason` why there is none.

    Raises:
        DataError: with reason archive_too_large, archive_encrypted or archive_damaged.
    """
    folder = Path(target) / secrets.token_hex(4)  # each attempt has one of its own
    folder.mkdir(parents=True)
    found: list[dict[str, Any]] = []
    with open_regular(Path(path)) as stream:
        budget = _Budget(stream.seek(0, io.SEEK_END))
        stream.seek(0)
        try:
            for place, member in enumerate(_members(stream, Path(path).name)):
                budget.member()
                found.append({"name": member.name, **_take(member, folder, place, budget)})
        except _DAMAGE as error:
            raise DataError("archive is damaged; copy it again", reason="archive_damaged") from error
    return found


def _take(member: _Member, folder: Path, place: int, budget: _Budget) -> dict[str, Any]:
    """Copy one member, or say why not."""
    if member.reason:
        return {"reason": member.reason}
    name = PurePosixPath(member.name.replace("\\", "/"))
    if not name.parts or name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
        return {"reason": "path_outside_archive"}
    suffix = next((end for end in _SUFFIXES if name.name.lower().endswith(end)), "")
    hidden = "._" if name.name.startswith("._") else ""  # what macOS adds beside each file
    target = folder / f"{hidden}{place:06d}{suffix}"
    with target.open("wb") as out:
        while piece := member.content.read(_PIECE):
            budget.spend(len(piece))
            out.write(piece)
    return {"file": str(target)}


def _members(stream: io.BufferedIOBase, name: str) -> Iterator[_Member]:
    head = stream.read(4)
    stream.seek(0)
    if head[:2] == b"PK":
        yield from _zipped(stream)
        return
    opener = _OPENERS.get(head[:2])
    content: Any = stream if opener is None else opener(stream)
    if b"ustar" in _peek(content):
        yield from _tarred(content)
    else:
        yield _Member(name.rpartition(".")[0] or name, None, content)


def _peek(content: Any) -> bytes:
    head: bytes = content.read(512)
    content.seek(0)
    return head[257:262]


def _zipped(stream: io.BufferedIOBase) -> Iterator[_Member]:
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise DataError("archive is encrypted; unpack it first", reason="archive_encrypted")
            kind = info.external_attr >> 16
            if stat.S_IFMT(kind) and not stat.S_ISREG(kind):
                yield _Member(info.filename, "link_not_followed", None)
                continue
            with archive.open(info) as content:
                yield _Member(info.filename, None, content)


def _tarred(stream: Any) -> Iterator[_Member]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            if info.isdir():
                continue
            if not info.isreg():
                yield _Member(info.name, "link_not_followed", None)
                continue
            yield _Member(info.name, None, archive.extractfile(info))


def _too_much(what: str) -> DataError:
    return DataError(
        f"archive unpacks to {what}, expected scans; unpack it yourself", reason="archive_too_large"
    )
