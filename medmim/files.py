"""The one way medmim writes files: whole or not at all, on any filesystem, whatever TMPDIR is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medmim.errors import MedmimError

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network folders: nobody can be kept out


class WriteError(MedmimError, OSError):
    """A file could not be written: the disk is full, broken or may not be written to; names no path."""

    def __str__(self) -> str:
        """Say it."""
        why = self.strerror or OSError.__str__(self)
        return f"cannot write: {why}; free the disk, or choose a folder that can be written to"


def write_bytes(path: Path, content: bytes, *, mode: int | None = None, lasting: bool = True) -> None:
    """Write `content` to `path` atomically: temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: target; its folder is made when missing.
        content: the whole file.
        mode: permission bits, such as 0o600 for a secret; the process's umask rules without it.
        lasting: wait for the disk; without, a power cut may leave half a file, which readers must notice.

    Raises:
        WriteError: if it cannot be written; what was there before is still there, whole.
    """
    try:
        _write_whole(path, content, mode=mode, lasting=lasting)
    except OSError as error:
        raise _without_path(error) from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let in one process at a time of those that ask for the same folder; the lock goes with its process."""
    descriptor = _lock_file(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder for this process, however it ends; its children do not keep it.

    Raises:
        BlockingIOError: if another process keeps it.
    """
    descriptor = _lock_file(folder)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Return whether another process keeps a folder; never asked by the one that does, which would let go."""
    if not (folder / _LOCK).is_file():
        return False
    try:
        with held(folder):
            return False
    except BlockingIOError:
        return True


def _lock_file(folder: Path) -> int:
    """Open the hidden file of a folder that is locked for it: network folders cannot be locked themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files of one folder, in order: none is replaced before there is room for all of them.

    Raises:
        WriteError: if one of them cannot be written; a full disk leaves all of them as they were.
    """
    written: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            written[path] = _written_beside(path, content, mode=None)
        for path, temporary in written.items():
            temporary.replace(path)
            _sync_folder(path.parent)
    except OSError as error:
        raise _without_path(error) from error
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def move(staged: Path, place: Path) -> None:
    """Move a file to its place on the same filesystem, and make sure that it stays there.

    Raises:
        WriteError: if that cannot be done.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(place)
        _sync_folder(place.parent)
    except OSError as error:
        raise _without_path(error) from error


def require_room(folder: Path, count: int = 1 << 16) -> None:
    """Make sure that `count` more bytes can be written to a folder; for programs that do not tell.

    Raises:
        WriteError: if they cannot.
    """
    write_bytes(folder / "room", bytes(count))
    (folder / "room").unlink()


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8, atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with sorted keys, atomically: equal content, equal bytes."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return what `write_json` writes."""
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically, in the order given."""
    write_bytes(path, jsonl_bytes(rows))


def jsonl_bytes(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return what `write_jsonl` writes."""
    lines = io.BytesIO()
    for row in rows:
        lines.write(json.dumps(row, sort_keys=True, allow_nan=False).encode("utf-8") + b"\n")
    return lines.getvalue()


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def shipped(folder: str) -> Path:
    """Return a folder that ships with medmim (`configs`, `data_manifests`), installed or in a checkout."""
    package = Path(__file__).parent
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


def _write_whole(path: Path, content: bytes, *, mode: int | None, lasting: bool) -> None:
    temporary = _written_beside(path, content, mode=mode, lasting=lasting)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if lasting:
        _sync_folder(path.parent)


def _written_beside(path: Path, content: bytes, *, mode: int | None, lasting: bool = True) -> Path:
    """Write `content` to a temporary file beside `path`, down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    # opened with the final bits, so that the kernel applies the umask: reading it would change it for a
    # moment, for all threads
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
            if lasting:
                os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _without_path(error: OSError) -> WriteError:
    """Keep what went wrong and drop where: a path may name a patient."""
    return WriteError(*error.args[:2])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
