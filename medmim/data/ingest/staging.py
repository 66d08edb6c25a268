"""The staging folder of an ingestion or prediction, which one process at a time uses, and its lock."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medmim import files
from medmim.errors import UsageError
from medmim.operating_system import FolderLock

_STAGING = ".staging"
_WRITTEN = ("manifest.jsonl", "ledger.jsonl", "dataset.json")


@contextlib.contextmanager
def locked_staging_folder(out: Path) -> Iterator[Path]:
    """Lock a folder and yield a staging folder in it, which is removed afterwards.

    Raises:
        UsageError: if another process is writing there.
    """
    files.private_folder(out)
    with _locked(out):
        _clear(out)
        # a unique name, because workers of a killed run may still write to the old folder
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=out))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _clear(out: Path) -> None:
    """Remove staging folders and temporary files that a killed run left."""
    for leftover in out.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for name in _WRITTEN:
        for leftover in out.glob(f".{name}.*.tmp"):
            leftover.unlink()


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock the folder itself, or with a file in it where the system cannot lock folders."""
    with contextlib.ExitStack() as stack:
        try:
            if FolderLock.exists():
                stack.callback(FolderLock(out).release)
            else:
                stack.enter_context(files.lock(out, wait=False))
        except (BlockingIOError, files.LockedError) as error:
            raise UsageError(
                f"'{out}' is being written by another ingestion: expected one at a time; wait for it to end"
            ) from error
        yield
