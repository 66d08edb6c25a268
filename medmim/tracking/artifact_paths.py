"""Paths of artifacts in a home folder, found without MLflow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

ARTIFACTS = "/artifacts/"  # in each address, after the home folder


def inside(home: Path, address: str) -> Path:
    """Return the path of an artifact address; in this home folder, also if the address names an old one."""
    tail = url2pathname(address.rpartition(ARTIFACTS)[2])
    if ARTIFACTS in address and (home / "artifacts" / Path(tail).parts[0]).is_dir():
        return home / "artifacts" / tail
    return Path(url2pathname(urlparse(address).path))


def link_files(source: Path, target: Path) -> None:
    """Give a folder the files of another one, as hard links where the filesystem has them."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
