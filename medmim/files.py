"""Atomic writing of files, locks on folders, and JSON lines."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from medmim.errors import DataError, MedmimError, UsageError
from medmim.operating_system import has_permission_bits

_LOG = logging.getLogger(__name__)
SHARED = "MEDMIM_SHARED"  # set by --shared: the group may read and write too
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".model", ".pkl")
_LOCK, _HOLDER = ".lock", ".lock-holder"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # network folders without flock


class WriteError(MedmimError, OSError):
    """A file could not be written; the message contains no path, which may name a patient."""

    def __str__(self) -> str:
        """Return the reason and the remedy."""
        why = self.strerror or OSError.__str__(self)
        return f"cannot write: {why}; free the disk, or choose a folder that can be written to"


class LockedError(MedmimError):
    """The folder is locked by another process, which the message names."""


def inner_path(path: str) -> str:
    """Return a path or key of a file by others; raise DataError if it leads out of the folder of the file."""
    if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/") or not path.isprintable():
        raise DataError(
            "a manifest names a file outside of its folder: do not trust it", reason="damaged_dataset"
        )
    return path


def names_weights_file(word: str) -> bool:
    """Return whether a word such as that of `--init` is the path of a weights file, by its ending."""
    return word.lower().endswith(WEIGHTS_SUFFIXES)


def write_bytes(path: Path, content: bytes, *, mode: int | None = None, lasting: bool = True) -> None:
    """Write `content` to `path` atomically: temporary file in the same folder, fsync, rename.

    Args:
        mode: exact permission bits, such as 0o600 for a secret; None: 0o666 less the umask.
        lasting: flush to the disk. Without it a power cut may leave half a file, which readers must detect.

    Raises:
        WriteError: if the file cannot be written; an existing file stays as it was.
    """
    with _path_hidden(), _temporary(path, content, mode=mode, lasting=lasting) as temporary:
        temporary.replace(path)
        if lasting:
            _sync(path.parent)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files of one folder, in order; none is replaced before all have been written to the disk.

    Raises:
        WriteError: if one cannot be written; on a full disk all files stay as they were.
    """
    with _path_hidden(), contextlib.ExitStack() as stack:
        for temporary, path in [(stack.enter_context(_temporary(*one)), one[0]) for one in contents.items()]:
            temporary.replace(path)
            _sync(path.parent)


def move(staged: Path, place: Path) -> None:
    """Move one file, as `move_together` does."""
    move_together({staged: place})


def move_together(places: Mapping[Path, Path]) -> None:
    """Move files durably to other paths on their filesystem, in order; raise WriteError if one cannot be."""
    with _path_hidden(), ThreadPoolExecutor(16) as pool:
        list(pool.map(_sync, places))  # a disk flushes many files at one time about as fast as one
        for staged, place in places.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            staged.replace(place)
        list(pool.map(_sync, {place.parent for place in places.values()}))


def link_or_copy(path: Path, place: Path) -> None:
    """Make a second name of a file that is never changed in place; a copy on other or unable filesystems.

    Raises:
        WriteError: if neither can be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    try:
        place.hardlink_to(path)
    except OSError:  # another filesystem, or one without hard links
        write_bytes(place, path.read_bytes())


@contextlib.contextmanager
def not_on_a_full_disk(what: str) -> Iterator[None]:
    """Write something that a training can do without: a full disk causes a warning instead of an error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _LOG.warning("%s is not saved: %s", what, error.strerror)


def require_room(folder: Path) -> None:
    """Check that 64 KiB can still be written to a folder, where a program hides a full disk."""
    write_bytes(folder / "room", bytes(1 << 16))
    (folder / "room").unlink()


def home_folder() -> Path:
    """Return the folder of runs: `MEDMIM_HOME`, or ./medmim-runs; raise UsageError if it is a file."""
    folder = Path(os.environ.get("MEDMIM_HOME", "medmim-runs"))
    if os.path.isfile(folder):  # noqa: PTH113 (Path.is_file raises where a part cannot be entered)
        raise UsageError(
            f"MEDMIM_HOME '{folder}': expected a folder, got a file; set MEDMIM_HOME to a folder"
        )
    return folder


def private_folder(folder: Path) -> Path:
    """Create a folder that only its owner can enter (with `--shared`: its group); an existing one stays."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(0o770 if os.environ.get(SHARED) else 0o700)
    return folder


@contextlib.contextmanager
def lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder until the block or this process ends; forked children do not hold it.

    Args:
        folder: created if missing.
        wait: wait for another holder; otherwise fail.

    Raises:
        LockedError: if another process has the lock and `wait` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    acquired = _acquire(folder, wait=wait)
    try:
        (folder / _HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        acquired.release()


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked the folder."""
    if not any((folder / name).exists() for name in (_LOCK, f"{_LOCK}.soft")):
        return False
    try:
        _acquire(folder, wait=False).release()
    except LockedError:
        return True
    return False


def _acquire(folder: Path, *, wait: bool) -> BaseFileLock:
    """Acquire the lock of a folder; where flock is missing, a marker file takes its place."""
    try:
        try:
            return _acquired(FileLock(folder / _LOCK, blocking=wait, fallback_to_soft=False))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return _acquired(SoftFileLock(folder / f"{_LOCK}.soft", blocking=wait))
    except Timeout:
        raise LockedError(f"'{folder.name}' is in use by {_holder(folder)}: wait until it ends") from None


def _acquired(candidate: BaseFileLock) -> BaseFileLock:
    candidate.acquire()
    return candidate


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8, atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON with sorted keys, atomically."""
    write_bytes(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return indented JSON with sorted keys: equal content gives equal bytes."""
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("utf-8")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, in the given order, atomically."""
    write_bytes(path, jsonl_bytes(rows))


def jsonl_bytes(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return JSON lines with sorted keys."""
    lines = (json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows)
    return "".join(lines).encode("utf-8")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shipped(folder: str) -> Path:
    """Return a folder that ships with medmim (`configs`, `data_manifests`), installed or in a checkout."""
    package = Path(__file__).parent
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


@contextlib.contextmanager
def _temporary(
    path: Path, content: bytes, *, mode: int | None = None, lasting: bool = True
) -> Iterator[Path]:
    """Write `content` to a temporary file next to `path`; remove it at the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    # created with the final bits: reading the umask would change it for a moment, for all threads
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o666 if mode is None else mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if mode is not None and has_permission_bits():
                os.fchmod(stream.fileno(), mode)
            if lasting:
                os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _path_hidden() -> Iterator[None]:
    """Raise operating-system errors as WriteError, which keeps the reason and drops the path."""
    try:
        yield
    except OSError as error:
        raise WriteError(*error.args[:2]) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
