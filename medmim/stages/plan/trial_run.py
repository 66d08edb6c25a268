"""A trial run in a separate process: memory and time of the first steps, an evaluation and a saved state."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from medmim.config.runs import FinetuneSettings, PretrainSettings, RunSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import RunError, Stopped, counted
from medmim.files import names_weights_file
from medmim.operating_system import peak_memory_mb, signals
from medmim.stages.finetune.run import finetune
from medmim.stages.initial_weights import SCRATCH, initial_weights_of
from medmim.stages.pretrain.run import pretrain
from medmim.stages.resumption import TARGETS_FILE
from medmim.stages.target_table import with_keyed_targets
from medmim.tracking.mlflow_store import Store
from medmim.training.weights import WEIGHTS

STEPS = 6
_LIMIT_S = 120.0  # of a trial run


@dataclass(frozen=True)
class TrialRun:
    """Measurements of a trial run.

    Attributes:
        peak_mb: peak memory of the process during its steps, or on a GPU the peak that PyTorch allocated, in
            MiB.
        whole_mb: the same including an evaluation and the saving of a state.
        batch_s: seconds of the fastest batch.
        volumes: training volumes of the run; an epoch draws each once.
        wait_share: share of the measured time in which the network waited for data.
    """

    batch: int
    peak_mb: float
    whole_mb: float
    batch_s: float
    batches: int
    volumes: int
    wait_share: float = 0.0


class TrialRunOverError(Exception):
    """Raised to end a trial run after its last step."""


class Stopwatch(Callback):
    """Time the batches of a training, then end it; the first includes the start, the last the evaluation."""

    def __init__(self, batches: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.batches = batches
        self.clock = clock
        self.volumes = 0
        self.peak_mb = 0.0
        self.seconds: list[float] = []
        self.waited: list[float] = []
        self._ended = clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the training volumes, which depend on splits, labels, channels and the method."""
        assert trainer.train_dataloader is not None
        self.volumes = len(trainer.train_dataloader.dataset.volumes)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the time spent waiting for the batch."""
        self.waited.append(self.clock() - self._ended)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the time of the batch, loading included."""
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
    measure: Callable[..., TrialRun] | None = None,
) -> TrialRun:
    """Run the first steps of a run with another batch size, in a separate process.

    Args:
        home: `MEDMIM_HOME`, where fine-tuning finds its initial weights; nothing is written there.
        unmeasured: number of first batches without timing; the last, with an evaluation, is not timed either.
        measure: function that the process calls; None: `first_steps`. Tests pass their own.

    Raises:
        RunError: if the process is killed, usually because memory ran out, or takes more than two minutes.
    """
    context = multiprocessing.get_context("spawn")  # a fork would start with this process's memory
    # the folder belongs to this process, because a killed process would leave its own folder behind
    with (
        ended_by_signals(),
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ProcessPoolExecutor(1, mp_context=context, initializer=_disable_tracking_server) as pool,
    ):
        arguments = (settings, batch, home, workers, batches, unmeasured, Path(folder))
        try:
            work: Callable[..., TrialRun] = measure or first_steps
            return pool.submit(work, *arguments).result(timeout=_LIMIT_S)
        except TimeoutError:
            for process in list(pool._processes.values()):
                process.kill()
            raise RunError(
                f"{batches} steps of {counted(batch, 'patch', 'patches')} take more than {_LIMIT_S:.0f} s "
                "on this machine, with loading and one evaluation: choose a smaller --size or --encoder"
            ) from None
        except BrokenProcessPool as error:
            raise RunError(
                f"the trial run with {counted(batch, 'patch', 'patches')} per batch was killed, probably "
                "because memory ran out: choose a smaller --size or --batch-size, or --set "
                "activation_checkpointing=true"
            ) from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Stopped on SIGTERM and SIGHUP, so that temporary folders are removed.

    Only the main thread can change the handling of signals; in others, nothing is changed.
    """

    def end(number: int, _frame: Any) -> None:
        raise Stopped(number, "the timing of steps was stopped: repeat the command")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in signals("SIGTERM", "SIGHUP")}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _disable_tracking_server() -> None:
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
    """Run and measure the first steps in this process, with a home in `scratch`; see `run_trial`."""
    stopwatch = Stopwatch(batches)
    # the only evaluation is after the last step, and a state is saved after it
    changed: dict[str, Any] = {
        "batch_size": batch,
        "accumulate": 1,
        "devices": 1,
        "nodes": 1,
        "workers": workers,
        "steps": batches,
        "num_evaluations": 1,
    }
    changed |= {"epochs": None, "minutes": None, "checkpoint_every_steps": None}
    chosen = settings.model_copy(update=changed)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        place = Path(folder)
        try:
            if isinstance(chosen, PretrainSettings):
                pretrain(chosen, home=place, callbacks=(stopwatch,))
            elif isinstance(chosen, FinetuneSettings):
                chosen = with_keyed_targets(_with_weights_path(chosen, home), place / TARGETS_FILE, home=home)
                finetune(chosen, home=place, log=lambda line: None, callbacks=(stopwatch,))
        except TrialRunOverError:
            times = stopwatch.seconds[unmeasured:-1]
            share = sum(stopwatch.waited[unmeasured:-1]) / sum(times)
            volumes = stopwatch.volumes
            return TrialRun(batch, stopwatch.peak_mb, _peak_mb(), min(times), batches, volumes, share)
    raise RuntimeError("the run ended before its steps were measured")


def _with_weights_path(settings: FinetuneSettings, home: Path) -> FinetuneSettings:
    """Return the settings with the path of the initial weights, because the trial run has its own home."""
    if settings.init is not None and (settings.init == SCRATCH or names_weights_file(settings.init)):
        return settings
    store = Store(home, reading=True)
    origin = initial_weights_of(settings, store, read_dataset(settings.data))
    return settings.model_copy(update={"init": str(store.checkpoints(origin.run_id) / WEIGHTS)})


def _peak_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return process_mb("VmHWM")


def process_mb(mark: str) -> float:
    """Return the current (VmRSS) or peak (VmHWM) memory of this process, in MiB."""
    status = Path("/proc/self/status")
    # preferred to getrusage, which on Linux inherits the peak of the parent process
    found = re.search(rf"{mark}:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if found:
        return int(found[1]) / 2**10
    return peak_memory_mb()
