"""`medmim doctor --repair`: permissions of files and folders, and the store of runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from medmim.errors import RunError, counted
from medmim.files import SHARED
from medmim.stages.doctor import Check
from medmim.tracking.database import DATABASE, is_intact
from medmim.tracking.migration import backups, check
from medmim.tracking.mlflow_store import Store
from medmim.tracking.rebuild import rebuild, write_missing_records
from medmim.tracking.run_files import records

_OTHERS, _GROUP_AND_OTHERS = 0o007, 0o077


def check_permissions(folders: Sequence[Path]) -> Check:
    """Check the permissions of medmim's folders.

    Only open folders are searched: a folder that others cannot enter protects its content.
    """
    count = sum(1 for folder in folders if folder.is_dir() for _ in _open_paths(folder))
    if not count:
        return Check(
            "permissions", "ok", f"only {'your group' if _shared() else 'you'} can read runs and data"
        )
    advice = "run `medmim doctor --repair`; for folders shared with your group: `medmim doctor --shared`"
    return Check(
        "permissions",
        "bad",
        f"{counted(count, 'file or folder', 'files and folders')} can be read by others",
        advice,
    )


def restrict_permissions(folders: Sequence[Path]) -> int:
    """Remove the permissions of others (without `--shared` also of the group); return how many paths changed.

    Files of other owners are skipped, as their permissions cannot be changed; links are not followed.
    """
    changed = 0
    for folder in (folder for folder in folders if folder.is_dir()):
        for path, mode in _paths(folder):
            if mode & _forbidden() and path.lstat().st_uid == os.geteuid():
                path.chmod(mode & ~_forbidden())
                changed += 1
    return changed


def _open_paths(folder: Path) -> Iterator[Path]:
    if stat.S_IMODE(folder.stat().st_mode) & _forbidden():
        yield from (path for path, mode in _paths(folder) if mode & _forbidden())


def _paths(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield a folder and its content, except links, with permission bits."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            yield path, stat.S_IMODE(mode)


def _forbidden() -> int:
    return _OTHERS if _shared() else _GROUP_AND_OTHERS


def _shared() -> bool:
    return bool(os.environ.get(SHARED))


_ADVICE = "run `medmim doctor --repair`"


def check_store(home: Path) -> Check:
    """Check the store of a home folder."""
    path, count = home / DATABASE, len(records(home))
    if not path.exists():
        if not count:
            return Check("store", "ok", "none; the first training creates it")
        return Check(
            "store",
            "bad",
            f"{DATABASE} is missing, {counted(count, 'run folder has', 'run folders have')} records",
            _ADVICE,
        )
    try:
        check(home)
        intact = is_intact(path)
    except RunError as error:
        found, _, advice = str(error).partition(": ")
        return Check("store", "bad", found, advice)
    if not intact:
        return Check("store", "bad", f"{DATABASE} fails SQLite's integrity check", _ADVICE)
    return Check(
        "store",
        "ok",
        f"intact, {counted(len(backups(home)), 'backup')}, {counted(count, 'run record')}",
    )


def repair_store(home: Path) -> str:
    """Migrate, restore or rebuild the store where needed, and record its runs; return what was done.

    Raises:
        RunError: if the store is locked, newer than the installed MLflow, or belongs to another program.
    """
    path = home / DATABASE
    if not path.exists() and not records(home):
        return "there is no store to repair"
    if path.exists() and is_intact(path):
        count = write_missing_records(Store(home))
        return f"the store is intact; records of {counted(count, 'run')} were added to their folders"
    done = rebuild(home)
    count = write_missing_records(Store(home))
    source = f"backup '{done.backup}'" if done.backup else "no backup"
    kept = f"; the damaged file is kept as '{done.kept}'" if done.kept else ""
    return (
        f"the store was rebuilt from {source} and the records of {counted(done.runs, 'run')}; "
        f"{counted(done.versions, 'model version was', 'model versions were')} registered again{kept}"
    )
