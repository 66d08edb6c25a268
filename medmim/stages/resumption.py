"""Resuming an interrupted run: which run, its settings, its weights file and its datasets.

The store contains no paths. Folders of datasets are kept next to it, by content hash, in
`$MEDMIM_HOME/datasets.json`, for the user alone; a weights file is named in the checkpoint folder of its run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medmim import files
from medmim.config.own_code import CODE_TAG, code_tags, refuse_foreign_code
from medmim.config.runs import RunSettings
from medmim.config.yaml_settings import parse_yaml
from medmim.data.dataset.manifest import content_hash, read_dataset
from medmim.errors import DataError, RunError, UsageError
from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.tracking.run_ids import RunOption

if TYPE_CHECKING:
    from medmim.data.dataset.manifest import Dataset
    from medmim.tracking.mlflow_store import Store
    from medmim.tracking.recorder_interface import Recorder

Settings = TypeVar("Settings", bound=RunSettings)
PLACES = "datasets.json"
_DEFAULT = Path("medmim-data")
_WEIGHTS_FILE, TARGETS_FILE = "init.txt", "targets.csv"
_log = logging.getLogger(__name__)
_RESUMED = "MEDMIM_RESUMED"  # id of the run that the first process resumes, for the other processes
_CHANGED = "--resume: the dataset has changed since this run was started: start it again without --resume"


def to_resume(
    kind: type[Settings],
    stage: str,
    word: str,
    *,
    home: Path,
    data: Path | None = None,
    more_data: Sequence[Path] = (),
    task: str | None = None,
) -> tuple[Settings, str]:
    """Return the settings and the id of the run that `--resume WORD` refers to.

    Args:
        word: a run id or its beginning, or `latest`.
        data: dataset folder; None: where the dataset of the run was last, or has been moved to.
        more_data: further dataset folders of a pretraining.
        task: task that the run must have; None: any.

    Raises:
        RunError: if there is none, it is already complete, or the rows of a given dataset have changed.
        DataError: if the dataset of the run is not found.
    """
    from medmim.tracking.mlflow_store import Store

    store = Store(home)
    run_id = find_unfinished(store, stage, word, task=task)
    tags = store.run(run_id).data.tags
    places = [data, *more_data] if data else find_dataset_folders(home, tags)
    pairs = zip(places, _content_hashes(tags), strict=False)  # `resume_run` refuses another number
    if any(_hash_at(place) not in (None, wanted) for place, wanted in pairs):
        raise RunError(_CHANGED)
    return stored_settings(kind, store, run_id, data=places[0], more_data=places[1:]), run_id


def find_unfinished(store: Store, stage: str, word: str, *, task: str | None = None) -> str:
    """Return the id of the run that `--resume WORD` refers to.

    `latest` is the newest unfinished run that no other process trains; see `to_resume`.

    Raises:
        RunError: if there is none, it is already complete, or another process trains it.
    """
    follower = _is_follower()  # the first process has selected and locked the run
    if word == "latest" and follower and _RESUMED in os.environ:
        return os.environ[_RESUMED]
    tasks = {None: (), "classify": ("classify", "multilabel")}.get(task, (str(task),))  # see `with_task_of`
    if word == "latest":
        unfinished = store.runs("attributes.status != 'FINISHED'", stage=stage)
        ids = [run.info.run_id for run in unfinished if not tasks or run.data.tags.get("task") in tasks]
        free = [one for one in ids if follower or not files.is_locked(store.checkpoints(one))]
        if not free:
            trained = ": all of them are being trained by other processes" if ids else ""
            kind = f"{stage} {task}" if task else stage
            raise RunError(f"--resume: no unfinished {kind} run here{trained}")
        return str(free[0])
    run = store.named(word, RunOption("--resume", "`latest` or ", (stage,), tasks))
    run_id = str(run.info.run_id)
    if run.info.status == "FINISHED":
        raise RunError(f"--resume: run {run_id} is already complete")
    if not follower and files.is_locked(store.checkpoints(run_id)):
        raise in_training(run_id)
    return run_id


def in_training(run_id: str) -> RunError:
    """Return the error for a run that another process trains."""
    return RunError(f"--resume: run {run_id} is being trained by another process: wait for it")


def stored_settings(
    kind: type[Settings], store: Store, run_id: str, *, data: Path, more_data: Sequence[Path] = ()
) -> Settings:
    """Return the settings that a run was started with, for `--resume`, with the current dataset folders."""
    text = store.read_text(store.run(run_id), "settings.yaml")
    values = kind.with_current_names(parse_yaml(text, where="settings.yaml"))
    refuse_foreign_code(values, source=f"--resume: run {run_id}")
    weights = store.checkpoints(run_id) / _WEIGHTS_FILE
    if weights.is_file():
        values["init"] = weights.read_text(encoding="utf-8")
    targets = store.checkpoints(run_id) / TARGETS_FILE
    more: dict[str, Any] = {"targets": targets} if targets.is_file() else {}
    more |= {"more_data": tuple(more_data)} if more_data else {}
    return kind.model_validate({**values, **more, "data": data})


def note_weights_file(store: Store, run_id: str, init: str | None) -> None:
    """Record the file of the initial weights for `--resume`; not in the store, which contains no paths."""
    if init is not None and files.names_weights_file(init):
        files.write_text(store.checkpoints(run_id) / _WEIGHTS_FILE, str(Path(init).resolve()))


def resume_run(
    store: Store, stage: str, resume: str | None, *, settings: RunSettings, dataset: Dataset
) -> Recorder | None:
    """Return the recorder of a resumed run, or of a process other than the first; None for a new run.

    Raises:
        UsageError: if a launcher started another number of processes than the settings ask for.
        RunError: if there is no such run, it is being trained, or the dataset has changed since; the run is
            then left unchanged.
    """
    processes = settings.devices * settings.nodes
    _check_launcher(processes)
    run_id = find_unfinished(store, stage, resume) if resume else None
    if processes > 1 and _is_follower():
        return MemoryRecorder(run_id or "along")
    if run_id is None:
        return None
    os.environ[_RESUMED] = run_id  # read by the processes that Lightning starts
    if store.run(run_id).data.tags["dataset_hash"] != dataset.info.content_hash:
        raise RunError(_CHANGED)
    recorder = store.resume(run_id, keep_points=True)
    before = store.run(run_id).data.tags
    _note_precision(recorder, before.get("precision"), settings)
    _note_code(recorder, before.get(CODE_TAG), settings)
    return recorder


def _note_precision(recorder: Recorder, before: str | None, settings: RunSettings) -> None:
    """Warn and record that a run continues in another precision, which `auto` chooses by the machine."""
    from medmim.training.precision import precision_name

    now = precision_name(settings.precision)
    if before and before.rpartition(" ")[2] != now:
        _log.warning("this run was trained in %s and continues in %s on this machine", before, now)
        recorder.tags({"precision": f"{before}, then {now}"})


def _note_code(recorder: Recorder, before: str | None, settings: RunSettings) -> None:
    """Warn and record that the user's own code has changed since the run was started."""
    now = code_tags(settings.model_dump(mode="json")).get(CODE_TAG, "none")
    if before and before.rpartition("; then ")[2] != now:
        _log.warning(
            "your own code has changed since this run was started: it was %s and is %s (SHA-256); the run "
            "uses both, so start it again without --resume to use one",
            before,
            now,
        )
        recorder.tags({CODE_TAG: f"{before}; then {now}"})


def _is_follower() -> bool:
    """Return whether a launcher started this process with a rank other than 0."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return bool(getattr(rank_zero_only, "rank", 0))


def _check_launcher(processes: int) -> None:
    """Raise if torchrun or SLURM started another number of processes than share a step."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    for name, kind in (("torchrun", TorchElasticEnvironment), ("SLURM", SLURMEnvironment)):
        if not kind.detect():
            continue
        try:
            started = kind().world_size()
        except RuntimeError as error:  # Lightning's message about unsupported SLURM options
            raise UsageError(f"{name}: {error}") from error
        if started != processes:
            raise UsageError(
                f"--devices times --nodes is {processes}, but {name} started {started}: make them equal"
            )


def note_dataset_folders(home: Path, tags: Mapping[str, str], folders: Sequence[Path]) -> None:
    """Record the folders of the datasets of a run, in the order of its tags."""
    places = [str(folder.resolve()) for folder in folders]
    known, new = _places(home), dict(zip(_content_hashes(tags), places, strict=True))
    if not new.items() <= known.items():
        files.write_bytes(home / PLACES, files.json_bytes({**known, **new}), mode=0o600)


def find_dataset_folders(home: Path, tags: Mapping[str, str]) -> list[Path]:
    """Return the folder of each dataset of a run: its last place, ./medmim-data, or a renamed one nearby."""
    return [_find_place(home, wanted) for wanted in _content_hashes(tags)]


def _content_hashes(tags: Mapping[str, str]) -> list[str]:
    return (tags.get("dataset_hashes") or tags["dataset_hash"]).split(",")


def _find_place(home: Path, wanted: str) -> Path:
    noted = _places(home).get(wanted)
    near = [Path(noted)] if noted else []
    near.append(_DEFAULT.resolve())
    renamed = [one.parent for place in near for one in sorted(place.parent.glob("*/dataset.json"))]
    for place in (*near, *renamed):
        if _hash_at(place) == wanted:
            return place
    where = f"was at '{noted}' and has been moved or changed" if noted else "is not known in this home folder"
    raise DataError(
        f"the dataset of this run (content {wanted[:8]}) {where}: give its folder with --data",
        reason="no_dataset",
    )


def _hash_at(place: Path) -> str | None:
    """Return the content hash of the rows of a dataset folder; None if there is no readable one."""
    try:
        return content_hash(read_dataset(place).volumes)
    except DataError:
        return None


def _places(home: Path) -> dict[str, str]:
    path = home / PLACES
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
