"""What the training stages share: an open run that always ends, its result, where weights come from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from medmim import files
from medmim.config import RunSettings
from medmim.errors import RunError

if TYPE_CHECKING:
    from medmim.data.cache import DiskCache
    from medmim.data.manifest import Dataset
    from medmim.tracking.recorder import Recorder
    from medmim.tracking.store import Store

Settings = TypeVar("Settings", bound=RunSettings)
_WEIGHTS_FILE = "init.txt"


@dataclass(frozen=True)
class Result:
    """What `pretrain` and `finetune` give.

    Attributes:
        run_id: in the MLflow store.
        checkpoint: weights (safetensors).
        metrics: the run's final numbers.
        panel: the last picture.
        scores: of a fine-tuning, every number of its test with its interval, as `intervals` gives them.
    """

    run_id: str
    checkpoint: Path
    metrics: dict[str, float]
    panel: Path
    scores: Sequence[Mapping[str, Any]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "run_id": self.run_id,
            "checkpoint": str(self.checkpoint),
            "metrics": self.metrics,
            "panel": str(self.panel),
            **({"scores": list(self.scores)} if self.scores else {}),
        }


def budget_words(settings: RunSettings) -> str:
    """Return what was asked for as the length of training, such as `steps=2000`; nothing for the default."""
    asked = ((key, getattr(settings, key)) for key in ("steps", "epochs", "minutes"))
    clock = " of processor time" if settings.minutes and settings.clock == "processor" else ""
    return next((f"{key}={length:g}{clock}" for key, length in asked if length), "")


@contextmanager
def ending(recorder: Recorder, store: Store | None = None) -> Iterator[Recorder]:
    """Give the run back and end it whatever happens: FINISHED, FAILED, or KILLED when interrupted.

    With a store, the run is mirrored to the server of `MLFLOW_TRACKING_URI`, if there is one.
    """
    with _mirrored(recorder, store):
        try:
            yield recorder
        except Exception:
            recorder.finish("FAILED")
            raise
        except BaseException:
            recorder.finish("KILLED")
            raise
        recorder.finish("FINISHED")


@contextmanager
def _mirrored(recorder: Recorder, store: Store | None) -> Iterator[None]:
    from medmim.tracking.sync import Mirror, server_of

    uri = server_of(store) if store and _leads() else None
    if store is None or uri is None:
        yield
        return
    with Mirror(store, recorder.run_id, uri) as mirror:
        yield
    if not mirror.complete:
        sys.stderr.write("medmim: the tracking server lacks part of this run; `medmim sync` completes it\n")


def stored_settings(kind: type[Settings], store: Store, run_id: str, *, data: Path) -> Settings:
    """Return the settings that a run was started with, for `--resume`; the dataset's place is given again."""
    values = yaml.safe_load(store.read_text(store.run(run_id), "settings.yaml"))
    place = store.checkpoints(run_id) / _WEIGHTS_FILE
    if place.is_file():
        values["init"] = place.read_text(encoding="utf-8")
    return kind.model_validate({**values, "data": data})


def note_weights_file(store: Store, run_id: str, init: str | None) -> None:
    """Note which file a run starts from, for `--resume`; not in the store, which keeps no paths."""
    if init is not None and init.endswith(".safetensors"):
        files.write_text(store.checkpoints(run_id) / _WEIGHTS_FILE, str(Path(init).resolve()))


def prepared_on_disk(settings: RunSettings, home: Path) -> DiskCache | None:
    """Return where prepared volumes are kept between runs, if at all."""
    from medmim.data.cache import PREPARED, DiskCache

    return DiskCache(home / PREPARED, limit_gb=settings.cache_disk_gb) if settings.cache_disk_gb else None


def begin(store: Store, settings: RunSettings, *, name: str, tags: Mapping[str, str]) -> Recorder:
    """Begin a run and store its settings, without the dataset's place."""
    recorder = store.begin(experiment=settings.experiment, name=name, tags=tags)
    recorder.settings(settings.model_dump(mode="json", exclude={"data"}))
    return recorder


def going_on(store: Store, stage: str, resume: str | None, *, dataset: Dataset) -> Recorder | None:
    """Return what records a run that goes on, or a process that trains along; None: a new run begins here.

    Raises:
        RunError: if there is no such run, or the dataset is another one by now; the run is left as it was.
    """
    from medmim.tracking.recorder import MemoryRecorder

    run_id = unfinished(store, stage, resume) if resume else None
    if not _leads():
        return MemoryRecorder(run_id or "along")
    if run_id is None:
        return None
    if store.run(run_id).data.tags["dataset_hash"] != dataset.info.content_hash:
        raise RunError("--resume: the dataset has changed since this run was started; start it again without")
    return store.resume(run_id, keep_points=True)


def _leads() -> bool:
    """Return whether this process records the run: the first of those that share its steps."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return not getattr(rank_zero_only, "rank", 0)


def to_resume(kind: type[Settings], stage: str, word: str, *, home: Path, data: Path) -> tuple[Settings, str]:
    """Return the settings and the id of the run that `--resume WORD` means.

    Raises:
        RunError: if there is none, or it is already complete.
    """
    from medmim.tracking.store import Store

    store = Store(home)
    run_id = unfinished(store, stage, word)
    return stored_settings(kind, store, run_id, data=data), run_id


def unfinished(store: Store, stage: str, word: str) -> str:
    """Return the run that `--resume WORD` means.

    Args:
        store: the local store.
        stage: pretrain or finetune.
        word: a run id, or `latest`.

    Raises:
        RunError: if there is none, or it is already complete.
    """
    if word == "latest":
        open_runs = [run for run in store.runs(stage=stage) if run.info.status != "FINISHED"]
        if not open_runs:
            raise RunError(f"--resume: no unfinished {stage} run here")
        return str(open_runs[0].info.run_id)
    run = store.run(word)
    if run.data.tags.get("stage") != stage:
        raise RunError(f"--resume: run {word} was not made by `medmim {stage}`")
    if run.info.status == "FINISHED":
        raise RunError(f"--resume: run {word} is already complete")
    return word
