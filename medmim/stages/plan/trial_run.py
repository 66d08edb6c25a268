"""A rehearsal of a run in a process of its own: first steps, an evaluation and a saved state, measured."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from medmim.config.runs import FinetuneSettings, PretrainSettings, RunSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import RunError
from medmim.stages.finetune.initial_weights import SCRATCH, find_initial_weights
from medmim.stages.finetune.run import finetune
from medmim.stages.memory_usage import process_mb
from medmim.stages.pretrain.run import pretrain
from medmim.tracking.mlflow_store import Store
from medmim.training.weights import WEIGHTS

STEPS = 6


@dataclass(frozen=True)
class TrialRun:
    """What the first steps took.

    Attributes:
        batch: patches a batch.
        peak_mb: the most memory that the process held in its steps, or on a GPU the most that PyTorch
            allocated, in MiB.
        whole_mb: the same with an evaluation and the saving of a state.
        batch_s: seconds a batch, the fastest.
        batches: how many there were.
        volumes: that the run draws from: an epoch draws each once.
        wait_share: share of the time of the measured batches in which the network waited for data.
    """

    batch: int
    peak_mb: float
    whole_mb: float
    batch_s: float
    batches: int
    volumes: int
    wait_share: float = 0.0


class TrialRunOverError(Exception):
    """The steps are done."""


class Stopwatch(Callback):
    """Measure the batches of a training, and end it; the first holds its beginning too, the last its end."""

    def __init__(self, batches: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.batches = batches
        self.clock = clock
        self.volumes = 0
        self.peak_mb = 0.0
        self.seconds: list[float] = []
        self.waited: list[float] = []
        self._ended = clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the volumes that are drawn from: splits, labels, channels and the method decide which."""
        assert trainer.train_dataloader is not None
        self.volumes = len(trainer.train_dataloader.dataset.volumes)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note how long the batch was waited for."""
        self.waited.append(self.clock() - self._ended)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how long a batch took, its data included.

        Raises:
            RehearsalOverError: after the last.
        """
        now = self.clock()
        self.seconds.append(now - self._ended)
        if len(self.seconds) == self.batches - 1:
            self.peak_mb = _peak_mb()
        if len(self.seconds) == self.batches:
            raise TrialRunOverError
        self._ended = self.clock()


def run_trial(
    settings: RunSettings,
    *,
    batch: int,
    home: Path,
    workers: int = 0,
    batches: int = STEPS,
    unmeasured: int = 1,
) -> TrialRun:
    """Run the first steps of a run with another batch size, in a process of its own.

    Args:
        settings: of the run.
        batch: patches a batch.
        home: where runs are kept: a fine-tuning finds its weights there; nothing is written there.
        workers: processes that prepare batches.
        batches: how many.
        unmeasured: the first of them, of which no time is told; the last is that of an evaluation.

    Raises:
        RunError: if the process is killed, as a system does where memory runs out.
    """
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    # a folder of this process: one that is killed leaves its own behind
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ProcessPoolExecutor(1, mp_context=context, initializer=_unheard) as pool,
    ):
        words = (settings, batch, home, workers, batches, unmeasured, Path(folder))
        try:
            return pool.submit(first_steps, *words).result()
        except BrokenProcessPool as error:
            raise RunError(
                f"the rehearsal at {batch} patches a batch was killed, probably because memory ran out: "
                "choose a smaller --size or --batch-size, or --set activation_checkpointing=true"
            ) from error


def _unheard() -> None:
    """Let no tracking server hear of what this process does."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def first_steps(
    settings: RunSettings,
    batch: int,
    home: Path,
    workers: int = 0,
    batches: int = STEPS,
    unmeasured: int = 1,
    scratch: Path | None = None,
) -> TrialRun:
    """Run and measure the first steps in this process; see `run_trial`.

    Its own home lies in a folder in `scratch`, and goes with it.
    """
    watch = Stopwatch(batches)
    # the last of its steps is that of the one evaluation, after which its state is saved
    asked: dict[str, Any] = {
        "batch_size": batch,
        "accumulate": 1,
        "devices": 1,
        "nodes": 1,
        "workers": workers,
        "steps": batches,
        "num_evaluations": 1,
    }
    asked |= {"epochs": None, "minutes": None, "checkpoint_every_steps": None}
    chosen = settings.model_copy(update=asked)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        place = Path(folder)
        try:
            if isinstance(chosen, PretrainSettings):
                pretrain(chosen, home=place, onlookers=(watch,))
            elif isinstance(chosen, FinetuneSettings):
                finetune(_from_weights(chosen, home), home=place, say=lambda line: None, onlookers=(watch,))
        except TrialRunOverError:
            steps_s = watch.seconds[unmeasured:-1]
            share = sum(watch.waited[unmeasured:-1]) / sum(steps_s)
            return TrialRun(batch, watch.peak_mb, _peak_mb(), min(steps_s), batches, watch.volumes, share)
    raise RuntimeError("a rehearsal ends before its run")


def _from_weights(settings: FinetuneSettings, home: Path) -> FinetuneSettings:
    """Return the settings with the place of the weights, since the rehearsal has a home of its own."""
    if settings.init is not None and (settings.init == SCRATCH or settings.init.endswith(".safetensors")):
        return settings
    store = Store(home)
    origin = find_initial_weights(settings.init, store, read_dataset(settings.data))
    return settings.model_copy(update={"init": str(store.checkpoints(origin.run_id) / WEIGHTS)})


def _peak_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return process_mb("VmHWM")
