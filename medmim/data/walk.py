"""The files below a folder, in sorted order: every one gets a number, and none is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """One entry of the walk: its place, and why it is no file to look into (None for regular files)."""

    number: int
    path: Path
    reason: str | None = None


def walk(source: Path, *, start: int = 0) -> list[Found]:
    """List everything below `source` that is no folder, sorted by name, folder by folder.

    Links are listed and never followed, so nothing outside the source is read and no loop can arise. A folder
    that cannot be listed counts as one entry.

    Args:
        source: an existing folder.
        start: number of the first entry.
    """
    return [Found(start + place, path, reason) for place, (path, reason) in enumerate(_entries(source))]


def _entries(source: Path) -> Iterator[tuple[Path, str | None]]:
    stack = [source]
    while stack:
        path = stack.pop()
        try:
            mode = source.stat().st_mode if path is source else path.lstat().st_mode
            if not stat.S_ISDIR(mode):
                yield path, _reason(mode)
                continue
            inside = sorted(path.iterdir(), key=os.fsencode, reverse=True)
        except OSError:
            yield path, "unreadable"
            continue
        stack.extend(inside)


def _reason(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return None
    return "link_not_followed" if stat.S_ISLNK(mode) else "special_file"
