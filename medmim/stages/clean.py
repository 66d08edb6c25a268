"""Deletion of runs, and of files that no run needs any more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim import files
from medmim.errors import RunError
from medmim.stages.store_filters import ModelFilter, RunFilter
from medmim.stages.store_listing import ListedRun, list_models, list_runs, run_ids
from medmim.tracking.run_ids import RunOption

_RUN_ID = re.compile(r"[0-9a-f]{32}")  # MLflow stores registered models next to the folders of runs


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed.

    Attributes:
        reason: why nothing needs it.
    """

    path: Path
    size: int
    reason: str


def delete_runs(words: Sequence[str], *, home: Path) -> list[ListedRun]:
    """Delete runs with their weights and artifacts; nothing is deleted if one of them must stay.

    Raises:
        RunError: for an unknown or ambiguous id, a run in training, or one that a registered model needs.
    """
    from medmim.tracking.mlflow_store import Store

    store = Store(home, reading=True)
    ids = [store.named(word, RunOption("--delete")).info.run_id for word in words]
    chosen = list_runs(home, RunFilter(ids=ids))
    for one in chosen:
        for model in list_models(home, ModelFilter(run_id=one.run_id)):
            raise RunError(
                f"--delete: run {one.run_id[:8]} produced the registered model {model.model}:{model.version} "
                "and cannot be deleted here; `medmim ui` can delete it, and the model stays"
            )
        if files.is_locked(home / "checkpoints" / one.run_id):
            raise RunError(f"--delete: run {one.run_id[:8]} is trained by another process: wait for it")
    for one in chosen:
        store.discard(one.run_id)
    return chosen


def leftovers(home: Path) -> list[Leftover]:
    """Return what can be removed: weights and artifacts of deleted runs, and timings of stopped studies.

    Files of a deleted run whose registered model still exists are not listed, because the model needs them.
    The cache of preprocessed volumes is not listed: it has a limit of its own (`cache_disk_gb`).
    """
    active = run_ids(home)
    folders = [*(home / "checkpoints").glob("*"), *(home / "artifacts").glob("*/*")]
    of_runs = [path for path in sorted(folders) if path.is_dir() and _RUN_ID.fullmatch(path.name)]
    orphans = [path for path in of_runs if path.name not in active]
    registered = {
        name for name in {path.name for path in orphans} if list_models(home, ModelFilter(run_id=name))
    }
    orphans = [path for path in orphans if path.name not in registered]
    found = [
        Leftover(path, _size(path), "its run was deleted") for path in orphans if not files.is_locked(path)
    ]
    timings = [path for path in (home / "studies").glob("tmp*") if path.is_dir()]
    return [*found, *(Leftover(path, _size(path), "timing of a study that was stopped") for path in timings)]


def remove(found: Sequence[Leftover]) -> int:
    """Remove files and folders; return the number of bytes."""
    for one in found:
        if one.path.is_dir():
            shutil.rmtree(one.path)
        else:
            one.path.unlink()
    return sum(one.size for one in found)


def _size(path: Path) -> int:
    return sum(one.stat().st_size for one in (path, *path.rglob("*")) if one.is_file())
