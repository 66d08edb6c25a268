"""The files of a source: every entry below it in a fixed order, with its number and the file to read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medmim.data.dataset.pseudonyms import Keys
from medmim.errors import DataError, UsageError

_MAC_FOLDER = "__MACOSX"


@dataclass(frozen=True)
class SourceFile:
    """One entry of a source.

    Attributes:
        number: position in the sorted source, from 0.
        path: path below the source.
        reason: why the entry is not read; None for files.
        target: file that a symbolic link points to; None for files.
    """

    number: int
    path: Path
    reason: str | None = None
    target: Path | None = None

    @property
    def file(self) -> Path:
        """The file to read: the target of a link, else the path itself."""
        return self.target or self.path


def walk(source: Path, *, start: int = 0, follow_links: bool = False) -> list[SourceFile]:
    """List every entry below `source` that is not a folder, sorted by name, folder by folder.

    Hidden folders and folders that cannot be listed count as one entry each. Symbolic links are followed if
    their target is in a hidden folder of the source (as in DataLad datasets) and listed once only: a link to
    a file that is listed anyway is skipped. Links out of the source are followed on request.
    """
    walker = _Walker(source.resolve(), follow_links)
    return [
        SourceFile(start + place, path, reason, target)
        for place, (path, reason, target) in enumerate(walker.entries(source))
    ]


class _Walker:
    """Lists a source once; `_visited` are the resolved folders behind links, which may form loops."""

    def __init__(self, source: Path, follow_links: bool) -> None:
        self._source = source
        self._follow_links = follow_links
        self._visited: set[Path] = set()

    def entries(self, source: Path) -> Iterator[tuple[Path, str | None, Path | None]]:
        stack = [source]
        while stack:
            path = stack.pop()
            try:
                linked = path is not source and path.is_symlink()
                real = Path(os.path.realpath(path)) if linked else path
                mode = (real if linked else path).stat().st_mode
                reason = self._link_refusal(real, mode) if linked else None
                if path is not source and stat.S_ISDIR(mode) and _is_hidden(path.name):
                    reason = "hidden_folder"
                if reason or not stat.S_ISDIR(mode):
                    reason = reason or (None if stat.S_ISREG(mode) else "special_file")
                    yield path, reason, real if linked and not reason else None
                    continue
                stack.extend(sorted(path.iterdir(), key=os.fsencode, reverse=True))
            except OSError:
                broken = path is not source and path.is_symlink()
                yield path, "link_without_target" if broken else "unreadable", None

    def _link_refusal(self, target: Path, mode: int) -> str | None:
        """Return why a link is not followed, or None."""
        if target.is_relative_to(self._source):
            inside = target.relative_to(self._source).parts
            folders = inside if stat.S_ISDIR(mode) else inside[:-1]
            if not any(_is_hidden(part) for part in folders):
                return "link_duplicate"
        elif not self._follow_links:
            return "link_not_followed"
        if stat.S_ISDIR(mode):
            if target in self._visited or self._source.is_relative_to(target):
                return "link_duplicate"
            self._visited.add(target)
        return None


def _is_hidden(folder: str) -> bool:
    return folder.startswith(".") or folder == _MAC_FOLDER


@dataclass(frozen=True)
class Sources:
    """Resolved folders of an ingestion, and the entries of the source and of an outside labels folder.

    `source` is the folder that paths are relative to; for a single file it is the folder of the file.
    """

    source: Path
    out: Path
    labels: Path | None
    inside: tuple[SourceFile, ...]
    outside: tuple[SourceFile, ...]

    @property
    def entries(self) -> tuple[SourceFile, ...]:
        """All entries, in the order of their numbers."""
        return (*self.inside, *self.outside)

    @property
    def readable(self) -> dict[int, Path]:
        """Paths of the entries that can be read, by number."""
        return {one.number: one.path for one in self.entries if one.reason is None}

    def keys(self, keys: Keys) -> dict[int, str]:
        """Return the key of each path by its number."""
        found = {one.number: keys.key("file", str(one.path.relative_to(self.source))) for one in self.inside}
        labels = self.labels or self.source
        for one in self.outside:
            found[one.number] = keys.key("file", "labels:" + str(one.path.relative_to(labels)))
        return found


def find_files(source: Path, out: Path, labels: Path | None, *, follow_links: bool = False) -> Sources:
    """Check the folders and list every file.

    Raises:
        UsageError: for paths that do not exist, or folders that contain each other.
        DataError: if there is no file.
    """
    source, out, labels = _check_paths(source, out, labels)
    inside = walk(source, follow_links=follow_links)
    below = labels is None or labels.is_relative_to(source)
    outside = [] if below or labels is None else walk(labels, start=len(inside), follow_links=follow_links)
    if not any(one.reason is None or one.reason == "unreadable" for one in (*inside, *outside)):
        raise DataError(
            f"no files below '{source}': expected DICOM, NIfTI or image files; check the path"
            + (", or pass --follow-links" if any("link" in str(one.reason) for one in inside) else ""),
            reason="no_files",
        )
    root = source if source.is_dir() else source.parent
    return Sources(root, out, labels, tuple(inside), tuple(outside))


def _check_paths(source: Path, out: Path, labels: Path | None) -> tuple[Path, Path, Path | None]:
    """Return the resolved paths."""
    if not source.exists():
        raise UsageError(
            f"source '{source}' does not exist: expected a folder, file or archive; check the path"
        )
    if labels is not None and not labels.is_dir():
        raise UsageError(f"labels folder '{labels}' does not exist: expected a folder; check the path")
    source, out, labels = source.resolve(), out.resolve(), labels.resolve() if labels else None
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out '{out}' is a file: expected a folder; choose another path")
    for what, folder in (("source", source), ("labels", labels)):
        if folder is not None and (out.is_relative_to(folder) or folder.is_relative_to(out)):
            raise UsageError(
                f"--out '{out}' and the {what} folder '{folder}' contain each other: expected separate "
                "folders, so that a dataset is never read as its own source; choose another --out"
            )
    if labels and labels != source and source.is_relative_to(labels):
        raise UsageError(
            f"labels folder '{labels}' contains the source: expected a separate folder or one below the "
            "source; choose another"
        )
    return source, out, labels
