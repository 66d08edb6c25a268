"""The last known folders of datasets, by content hash, so that a resumed run finds its dataset.

The store contains no paths; they are kept next to it, in `$MEDMIM_HOME/datasets.json`, for the user alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmim import files
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import DataError

PLACES = "datasets.json"
_DEFAULT = Path("medmim-data")


def note_places(home: Path, tags: Mapping[str, str], folders: Sequence[Path]) -> None:
    """Record the folders of the datasets of a run, in the order of its tags."""
    places = [str(folder.resolve()) for folder in folders]
    known, new = _places(home), dict(zip(_content_hashes(tags), places, strict=True))
    if not new.items() <= known.items():
        files.write_bytes(home / PLACES, files.json_bytes({**known, **new}), mode=0o600)


def find_places(home: Path, tags: Mapping[str, str]) -> list[Path]:
    """Return the folder of each dataset of a run: its last place, ./medmim-data, or a renamed one nearby."""
    return [_find_place(home, content_hash) for content_hash in _content_hashes(tags)]


def _content_hashes(tags: Mapping[str, str]) -> list[str]:
    return (tags.get("dataset_hashes") or tags["dataset_hash"]).split(",")


def _find_place(home: Path, content_hash: str) -> Path:
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
