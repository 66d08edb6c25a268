"""What one ingestion is asked to read: its folders, checked, and every file in them with its number."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medmim.data.ingest.pseudonyms import Keys
from medmim.errors import DataError, UsageError


@dataclass(frozen=True)
class SourceFile:
    """One entry of the walk: its place, and why it is no file to look into (None for regular files)."""

    number: int
    path: Path
    reason: str | None = None


def walk(source: Path, *, start: int = 0) -> list[SourceFile]:
    """List everything below `source` that is no folder, sorted by name, folder by folder.

    Links are listed and never followed, so nothing outside the source is read and no loop can arise. A folder
    that cannot be listed counts as one entry.

    Args:
        source: an existing folder.
        start: number of the first entry.
    """
    return [SourceFile(start + place, path, reason) for place, (path, reason) in enumerate(_entries(source))]


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


@dataclass(frozen=True)
class Sources:
    """Folders without links, and the files of the source, then those of a labels folder outside of it."""

    source: Path
    out: Path
    labels: Path | None
    inside: tuple[SourceFile, ...]
    outside: tuple[SourceFile, ...]

    @property
    def entries(self) -> tuple[SourceFile, ...]:
        """All files."""
        return (*self.inside, *self.outside)

    def keys(self, keys: Keys) -> dict[int, str]:
        """Return the key of each file's path by its number."""
        found = {one.number: keys.key("file", str(one.path.relative_to(self.source))) for one in self.inside}
        labels = self.labels or self.source
        for one in self.outside:
            found[one.number] = keys.key("file", "labels:" + str(one.path.relative_to(labels)))
        return found


def find_files(source: Path, out: Path, labels: Path | None) -> Sources:
    """Check the folders and list every file.

    Raises:
        UsageError: for folders that are missing or lie in each other.
        DataError: if there is no file.
    """
    source, out, labels = _folders(source, out, labels)
    inside = walk(source)
    below = labels is None or labels.is_relative_to(source)
    outside = [] if below or labels is None else walk(labels, start=len(inside))
    if not inside and not outside:
        raise DataError(
            f"no files below '{source}': expected DICOM or NIfTI; check the folder", reason="no_files"
        )
    return Sources(source, out, labels, tuple(inside), tuple(outside))


def _folders(source: Path, out: Path, labels: Path | None) -> tuple[Path, Path, Path | None]:
    """Return the folders without links, or say which of them cannot be used together."""
    for what, folder in (("source", source), ("labels", labels)):
        if folder is not None and not folder.is_dir():
            raise UsageError(
                f"{what} folder '{folder}' is not there: expected an existing folder; check the path"
            )
    source, out, labels = source.resolve(), out.resolve(), labels.resolve() if labels else None
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"--out '{out}' is a file: expected a folder, new or of an earlier run; choose another"
        )
    for what, folder in (("source", source), ("labels", labels)):
        if folder is not None and (out.is_relative_to(folder) or folder.is_relative_to(out)):
            raise UsageError(
                f"--out '{out}' and the {what} folder '{folder}' lie in each other: expected two places, "
                "so that a dataset is never read as its own source; choose another --out"
            )
    if labels and labels != source and source.is_relative_to(labels):
        raise UsageError(
            f"labels folder '{labels}' holds the source: expected it beside or below; choose another"
        )
    return source, out, labels
