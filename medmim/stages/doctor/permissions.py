"""Check and repair the permissions of home and datasets: private to their owner, or shared with the group."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from medmim.errors import counted
from medmim.files import SHARED

_OTHERS, _GROUP_AND_OTHERS = 0o007, 0o077
Verdict = tuple[str, Literal["ok", "note", "bad"], str, str]


def judge_permissions(folders: Sequence[Path]) -> Verdict:
    """Return name, status, finding and advice on the permissions of medmim's folders.

    Only open folders are searched: a folder that others cannot enter protects its content.
    """
    count = sum(1 for folder in folders if folder.is_dir() for _ in _open_paths(folder))
    if not count:
        return "permissions", "ok", f"only {'your group' if _shared() else 'you'} can read runs and data", ""
    advice = "run `medmim doctor --repair`; for folders shared with your group: `medmim doctor --shared`"
    return (
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
