"""The last known folders of datasets, by content hash, so that a resumed run finds its dataset.

The store contains no paths; they are kept next to it, in `$MEDMIM_HOME/datasets.json`, for the user alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from medmim import files
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError

PLACES = "datasets.json"
_DEFAULT = Path("medmim-data")


def note_place(home: Path, content_hash: str, data: Path) -> None:
    """Record the folder of a dataset."""
    known = _places(home)
    if known.get(content_hash) != str(data.resolve()):
        content = files.json_bytes({**known, content_hash: str(data.resolve())})
        files.write_bytes(home / PLACES, content, mode=0o600)


def find_place(home: Path, content_hash: str) -> Path:
    """Return the folder of a dataset: its last place, ./medmim-data, or a renamed folder next to either.

    Raises:
        DataError: if it is in none of them.
    """
    noted = _places(home).get(content_hash)
    near = [Path(noted)] if noted else []
    near.append(_DEFAULT.resolve())
    renamed = [one.parent for place in near for one in sorted(place.parent.glob("*/dataset.json"))]
    for place in (*near, *renamed):
        if _hash_at(place) == content_hash:
            return place
    where = f"was at '{noted}' and has been moved or changed" if noted else "is not known in this home folder"
    raise DataError(
        f"the dataset of this run (content {content_hash[:8]}) {where}: give its folder with --data",
        reason="no_dataset",
    )


def _hash_at(place: Path) -> str | None:
    """Return the content hash of a dataset folder; None if there is no readable one."""
    try:
        return read_dataset(place).info.content_hash
    except DataError:
        return None


def _places(home: Path) -> dict[str, str]:
    path = home / PLACES
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
