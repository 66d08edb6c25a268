"""The life cycle of a training run: start or resume, train, save, end; and its result."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import lightning as L
from torch import Tensor

from medmim import __version__, files
from medmim.config.own_code import code_tags
from medmim.config.runs import FinetuneSettings, RunSettings
from medmim.data.dataset.contamination_certificate import seen_patients_of, write_seen_patients
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.splits import Partition
from medmim.data.loading.disk_cache import PREPARED, DiskCache
from medmim.data.loading.patches import PatchDataset
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.errors import UnregisteredError
from medmim.heads import Transfer
from medmim.notebook import NotebookResult, Table, read_picture
from medmim.stages.initial_weights import InitialWeights
from medmim.stages.resumption import (
    TARGETS_FILE,
    in_training,
    note_dataset_folders,
    note_weights_file,
    resume_run,
)
from medmim.stages.target_table import with_keyed_targets
from medmim.tracking.mlflow_store import Store
from medmim.tracking.recorder_interface import MemoryRecorder, Recorder
from medmim.tracking.sync import BackgroundUploader, server_of
from medmim.training.budget import Budget
from medmim.training.callbacks import ValidationCallback
from medmim.training.precision import precision_name
from medmim.training.resume.checkpoint_files import remove_states
from medmim.training.trainer import FitResult, fit
from medmim.training.weights import reserved_room, save_weights

RunSettingsT = TypeVar("RunSettingsT", bound=RunSettings)
ModuleT = TypeVar("ModuleT", bound=L.LightningModule)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingRun(ABC, Generic[RunSettingsT, ModuleT]):
    """The components of a run; `stage` is the command that made it.

    Attributes:
        settings: settings with every open value filled in.
        partition: training, validation and test volumes.
        volumes: loads and preprocesses volumes.
        patches: training patches.
        module: what is trained, with its loss and optimizer, as a Lightning module.
        transfer_report: how the initial weights were transferred; None from scratch.
    """

    stage: ClassVar[str]
    settings: RunSettingsT
    dataset: Dataset
    partition: Partition
    volumes: VolumeLoader
    patches: PatchDataset
    module: ModuleT
    budget: Budget
    origin: InitialWeights
    transfer_report: Transfer | None

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the run in the store, without its seed."""

    @property
    @abstractmethod
    def tags(self) -> dict[str, str]:
        """Tags of the run, `shared_tags` included."""

    @property
    def plan(self) -> PreprocessingPlan:
        """How volumes are preprocessed."""
        return self.volumes.plan

    def shared_tags(self) -> dict[str, str]:
        """Return the tags that runs of both stages have."""
        settings = self.settings
        lengths = ((key, getattr(settings, key)) for key in ("steps", "epochs", "minutes"))
        clock = " of processor time" if settings.minutes and settings.time_source == "processor" else ""
        return {
            "stage": self.stage,
            "encoder": str(settings.encoder),
            "dims": str(self.plan.dims),
            "size": ",".join(map(str, self.plan.size)),
            "budget": next((f"{key}={length:g}{clock}" for key, length in lengths if length), ""),
            "precision": precision_name(settings.precision),
            "seed": str(settings.seed),
            "dataset": self.dataset.info.name,
            "dataset_hash": self.dataset.info.content_hash,
            "medmim_version": __version__,
        }

    def save(
        self,
        weights: Mapping[str, Tensor],
        description: Mapping[str, Any],
        seen: Sequence[VolumeRecord],
        recorder: Recorder,
        folder: Path,
    ) -> Path:
        """Save and record weights with their description and the patients of the volumes seen."""
        settings = self.settings
        shared = {
            "medmim_version": __version__,
            "run_id": recorder.run_id,
            "spatial_dims": self.plan.dims,
            "in_channels": settings.in_channels,
            "channels": settings.channels,
            "encoder": settings.encoder,
            "encoder_options": settings.encoder_options,
            "lineage": self.origin.lineage,
            **self.plan.as_json(),
            "dataset_hash": self.dataset.info.content_hash,
        }
        # without a record of the initial weights there is none of the whole: it stays unknown
        saw = self.origin.saw and self.origin.saw | seen_patients_of(seen)
        path = save_weights(folder, weights, {**shared, **description}, saw.as_metadata() if saw else None)
        if saw:
            write_seen_patients(folder, saw)
        for one in (path, path.with_suffix(".json")):
            recorder.file(one, folder="model")
        return path


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


def train(
    run: TrainingRun[Any, Any],
    given: RunSettings,
    store: Store,
    *,
    validate: Callable[[Recorder, Path], ValidationCallback],
    finish: Callable[[FitResult, ValidationCallback, Recorder, Path], RunResult],
    resume: str | None,
    tags: Mapping[str, str],
    callbacks: Sequence[L.Callback],
) -> RunResult:
    """Start or resume a run, train, and finish it.

    Args:
        given: settings as the user gave them, with the paths that the store does not contain.
        validate: returns the evaluation during training, from the recorder and the checkpoint folder.
        finish: evaluates and saves what was trained.
    """
    recorder = resume_run(store, run.stage, resume, settings=run.settings, dataset=run.dataset)
    recorder = recorder or _start(run, given, store, {**run.tags, **tags})
    folder = store.checkpoints(recorder.run_id)
    with managed_run(recorder, store), reserved_room(folder, run.module):
        validation = validate(recorder, folder)
        fitted = fit(
            run.module,
            run.patches,
            run.settings,
            recorder,
            folder,
            validation=validation,
            resume=bool(resume),
            callbacks=callbacks,
        )
        result = finish(fitted, validation, recorder, folder)
    remove_states(folder)
    return result


def _start(run: TrainingRun[Any, Any], given: RunSettings, store: Store, tags: Mapping[str, str]) -> Recorder:
    """Start a run and store its settings without paths, which are noted next to the store."""
    server_of(store)  # rejects a bad tracking URI before the run is created
    settings, own = run.settings, code_tags(run.settings.model_dump())
    note_dataset_folders(store.home, tags, [given.data, *getattr(given, "more_data", ())])
    named = f"{run.name} · seed {settings.seed}"
    recorder = store.begin(experiment=settings.experiment, name=named, tags={**tags, **own})
    recorder.settings(settings.model_dump(mode="json", exclude={"data", "more_data", "targets"}))
    note_weights_file(store, recorder.run_id, given.init)
    if isinstance(given, FinetuneSettings):
        with_keyed_targets(given, store.checkpoints(recorder.run_id) / TARGETS_FILE, home=store.home)
    return recorder


def last_metrics(fitted: FitResult, validation: ValidationCallback) -> dict[str, float]:
    """Return length and last evaluation of a training, with the prefix `last/`."""
    evaluated = {f"last/{key.replace('/', '_')}": value for key, value in validation.last.items()}
    return {**evaluated, "last/steps": float(fitted.steps), "last/minutes": fitted.seconds / 60}


@contextmanager
def managed_run(recorder: Recorder, store: Store | None = None) -> Iterator[Recorder]:
    """Yield the run and always end it: FINISHED (also unregistered), FAILED, or KILLED when interrupted.

    With a store, no other process can resume the run meanwhile, and the run is mirrored to the server of
    `MLFLOW_TRACKING_URI`, if there is one.

    Raises:
        RunError: if another process trains this run, which is then left unchanged.
    """
    if isinstance(recorder, MemoryRecorder):  # a process with a rank other than 0
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
            raise in_training(run_id) from None
        yield


@contextmanager
def _mirrored(recorder: Recorder, store: Store | None) -> Iterator[None]:
    uri = server_of(store) if store else None
    if store is None or uri is None:
        yield
        return
    with BackgroundUploader(store, recorder.run_id, uri) as mirror:
        yield
    if not mirror.complete:
        sys.stderr.write("medmim: the tracking server has only part of this run; run `medmim sync`\n")


def volume_loader(settings: RunSettings, plan: PreprocessingPlan, home: Path) -> VolumeLoader:
    """Return the loader of the volumes of a run, with a disk cache if it is enabled."""
    disk = DiskCache(home / PREPARED, limit_gb=settings.cache_disk_gb) if settings.cache_disk_gb else None
    return VolumeLoader(settings.data, plan, cache_gb=settings.cache_gb, disk=disk)
