"""The life of a training run: start, resume and end, its stored settings and its result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medmim import files
from medmim.config.own_code import refuse_foreign_code
from medmim.config.resolve import parse_yaml
from medmim.config.runs import RunSettings
from medmim.errors import RunError, UnregisteredError, UsageError
from medmim.notebook import NotebookResult, Table, read_picture
from medmim.stages.dataset_places import find_places, note_places
from medmim.tracking.recorder import MemoryRecorder

if TYPE_CHECKING:
    from medmim.data.dataset.manifest import Dataset
    from medmim.data.loading.disk_cache import DiskCache
    from medmim.tracking.mlflow_store import Store
    from medmim.tracking.recorder import Recorder

Settings = TypeVar("Settings", bound=RunSettings)
_WEIGHTS_FILE, TARGETS_FILE = "init.txt", "targets.csv"
_RESUMED = "MEDMIM_RESUMED"  # id of the run that the first process resumes, for the other processes


@dataclass(frozen=True)
class RunResult(NotebookResult):
    """The result of `pretrain` or `finetune`.

    Attributes:
        scores: test metrics of a fine-tuning with their confidence intervals, as from `intervals`.
    """

    run_id: str
    checkpoint: Path
    metrics: dict[str, float]
    panel: Path
    scores: Sequence[Mapping[str, Any]] = ()

    def table(self) -> Table:
        """Return the test metrics with their confidence intervals, or the last values of a pretraining."""
        if not self.scores:
            return [["metric", "value"], *([key, f"{value:.4g}"] for key, value in self.metrics.items())]
        head = ["test metric", "value", "95 % interval", "patients"]
        return [head, *(score_cells(row) for row in self.scores)]

    def remarks(self) -> Sequence[str]:
        """Return the run id and the path of the weights."""
        return [f"run {self.run_id}", f"weights {self.checkpoint}"]

    def picture(self) -> bytes | None:
        """Return the last picture of the run."""
        return read_picture(self.panel)

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "run_id": self.run_id,
            "checkpoint": str(self.checkpoint),
            "metrics": self.metrics,
            "panel": str(self.panel),
            **({"scores": list(self.scores)} if self.scores else {}),
        }


def score_cells(row: Mapping[str, Any]) -> list[str]:
    """Return a row of `intervals` as metric, value, confidence interval and number of patients."""
    interval = "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
    return [str(row["metric"]), f"{row['value']:.3f}", interval, str(row["patients"])]


def budget_words(settings: RunSettings) -> str:
    """Return the requested length of training, such as `steps=2000`; empty for the default."""
    lengths = ((key, getattr(settings, key)) for key in ("steps", "epochs", "minutes"))
    clock = " of processor time" if settings.minutes and settings.time_source == "processor" else ""
    return next((f"{key}={length:g}{clock}" for key, length in lengths if length), "")


@contextmanager
def managed_run(recorder: Recorder, store: Store | None = None) -> Iterator[Recorder]:
    """Yield the run and always end it: FINISHED (also unregistered), FAILED, or KILLED when interrupted.

    With a store, no other process can resume the run meanwhile, and the run is mirrored to the server of
    `MLFLOW_TRACKING_URI`, if there is one.

    Raises:
        RunError: if another process trains this run, which is then left unchanged.
    """
    if isinstance(recorder, MemoryRecorder):  # one of several processes of a run, not the first
        store = None
    with _locked(recorder.run_id, store), _mirrored(recorder, store):
        try:
            yield recorder
        except UnregisteredError:
            recorder.finish("FINISHED")
            raise
        except Exception:
            recorder.finish("FAILED")
            raise
        except BaseException:
            recorder.finish("KILLED")
            raise
        recorder.finish("FINISHED")


@contextmanager
def _locked(run_id: str, store: Store | None) -> Iterator[None]:
    if store is None:
        yield
        return
    with ExitStack() as lock:
        try:
            lock.enter_context(files.lock(store.checkpoints(run_id), wait=False))
        except files.LockedError:
            raise _in_training(run_id) from None
        yield


def _in_training(run_id: str) -> RunError:
    return RunError(f"--resume: run {run_id} is being trained by another process: wait for it")


@contextmanager
def _mirrored(recorder: Recorder, store: Store | None) -> Iterator[None]:
    from medmim.tracking.sync import BackgroundUploader, server_of

    uri = server_of(store) if store else None
    if store is None or uri is None:
        yield
        return
    with BackgroundUploader(store, recorder.run_id, uri) as mirror:
        yield
    if not mirror.complete:
        sys.stderr.write("medmim: the tracking server has only part of this run; run `medmim sync`\n")


def stored_settings(
    kind: type[Settings], store: Store, run_id: str, *, data: Path, more_data: Sequence[Path] = ()
) -> Settings:
    """Return the settings that a run was started with, for `--resume`, with the current dataset folders."""
    values = parse_yaml(store.read_text(store.run(run_id), "settings.yaml"), where="settings.yaml")
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


def prepared_on_disk(settings: RunSettings, home: Path) -> DiskCache | None:
    """Return the disk cache of preprocessed volumes, if it is enabled."""
    from medmim.data.loading.disk_cache import PREPARED, DiskCache

    return DiskCache(home / PREPARED, limit_gb=settings.cache_disk_gb) if settings.cache_disk_gb else None


def start_run(store: Store, settings: RunSettings, *, name: str, tags: Mapping[str, str]) -> Recorder:
    """Start a run, store its settings without the path of the dataset, and note that path in the home."""
    from medmim.tracking.sync import server_of

    server_of(store)  # refuses an address that is no server before there is a run
    note_places(store.home, tags, [settings.data, *getattr(settings, "more_data", ())])
    named = f"{name} · seed {settings.seed}"
    recorder = store.begin(experiment=settings.experiment, name=named, tags=tags)
    recorder.settings(settings.model_dump(mode="json", exclude={"data", "more_data", "targets"}))
    return recorder


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
        raise RunError(
            "--resume: the dataset has changed since this run was started: start it again without --resume"
        )
    return store.resume(run_id, keep_points=True)


def _is_follower() -> bool:
    """Return whether a launcher started this process as another than the first."""
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
        RunError: if there is none, or it is already complete.
        DataError: if the dataset of the run is not found.
    """
    from medmim.tracking.mlflow_store import Store

    store = Store(home)
    run_id = find_unfinished(store, stage, word, task=task)
    places = [data, *more_data] if data else find_places(home, store.run(run_id).data.tags)
    return stored_settings(kind, store, run_id, data=places[0], more_data=places[1:]), run_id


def find_unfinished(store: Store, stage: str, word: str, *, task: str | None = None) -> str:
    """Return the id of the run that `--resume WORD` refers to.

    `latest` is the newest unfinished run that no other process trains; see `to_resume`.

    Raises:
        RunError: if there is none, it is already complete, or another process trains it.
    """
    from medmim.tracking.mlflow_store import begins_with

    follower = _is_follower()  # the first process has selected and locked the run
    command = f"medmim {stage} {task}" if task else f"medmim {stage}"
    if word == "latest" and follower and _RESUMED in os.environ:
        return os.environ[_RESUMED]
    tasks = ("classify", "multilabel") if task == "classify" else (task,)  # see `with_task_of`
    if word == "latest":
        unfinished = store.runs("attributes.status != 'FINISHED'", stage=stage)
        ids = [run.info.run_id for run in unfinished if not task or run.data.tags.get("task") in tasks]
        free = [one for one in ids if follower or not files.is_locked(store.checkpoints(one))]
        if not free:
            trained = ": all of them are being trained by other processes" if ids else ""
            raise RunError(f"--resume: no unfinished {command.removeprefix('medmim ')} run here{trained}")
        return str(free[0])
    found = store.runs(begins_with(word), stage=stage)
    found = [run for run in found if not task or run.data.tags.get("task") in tasks]
    if len(found) != 1:
        store.run(word)  # raises for an id that no run has
        raise RunError(f"--resume: run {word} was not made by `{command}`")
    [run], word = found, str(found[0].info.run_id)
    if run.info.status == "FINISHED":
        raise RunError(f"--resume: run {word} is already complete")
    if not follower and files.is_locked(store.checkpoints(word)):
        raise _in_training(word)
    return word
