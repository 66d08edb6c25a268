"""Files of runs in a home folder, found without MLflow: artifacts and records.

<home>/checkpoints/<run>/record.jsonl    what the store contains about the run, one JSON object a line, so
                                         that it can be rebuilt: `run` (experiment, name, start), then
                                         `params`, `tags`, `metrics` (step, time) and `status` (time)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from medmim import files

ARTIFACTS = "/artifacts/"  # in each address, after the home folder
RECORD = "record.jsonl"


@dataclass(frozen=True)
class RunRecord:
    """The record of one run.

    Attributes:
        path: of the file; its folder is named after the run.
    """

    path: Path

    def add(self, **entry: Any) -> None:
        """Append one entry."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries; lines that a killed process left incomplete are skipped."""
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(dict(json.loads(line)))
            except (ValueError, TypeError):
                continue
        return found


def records(home: Path) -> list[Path]:
    """Return the records of all runs in a home folder."""
    return sorted((home / "checkpoints").glob(f"*/{RECORD}"))


def inside(home: Path, address: str) -> Path:
    """Return the path of an artifact address; in this home folder, also if the address names an old one."""
    tail = url2pathname(address.rpartition(ARTIFACTS)[2])
    if ARTIFACTS in address and (home / "artifacts" / Path(tail).parts[0]).is_dir():
        return home / "artifacts" / tail
    return Path(url2pathname(urlparse(address).path))


def link_files(source: Path, target: Path) -> None:
    """Give a folder the files of another one, as hard links where the filesystem has them."""
    if source.is_dir():
        for path in source.rglob("*"):
            if path.is_file() and not path.is_symlink():
                files.link_or_copy(path, target / path.relative_to(source))
