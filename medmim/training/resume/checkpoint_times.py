"""When the state of a training is saved: after steps, evaluations or minutes, and on signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from medmim.errors import RunError, Stopped
from medmim.operating_system import signals
from medmim.training.callbacks import Log, ValidationCallback, completes_step
from medmim.training.resume.checkpoint_files import save_state

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SAVING = signals("SIGUSR1")


class Signals(Callback):
    """Record SIGTERM, SIGINT and SIGUSR1 until a step is complete; the same stop signal twice stops at once.

    Attributes:
        stop: the last SIGTERM or SIGINT received, if any.
        save: whether a SIGUSR1 is pending.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers, replacing those that Lightning has just installed."""
        if threading.current_thread() is threading.main_thread():
            for number in (*_STOPPING, *_SAVING):
                signal.signal(number, self.handle)

    def handle(self, number: int, frame: object) -> None:
        """Record one signal.

        Raises:
            Stopped: for a repeated stop signal; the current step is then lost, the last saved state is not.
        """
        if number in _SAVING:
            self.save = True
            return
        if number == self.stop:
            raise Stopped(number)
        self.stop = number

    @contextmanager
    def restored_afterwards(self) -> Iterator[None]:
        """Restore the previous signal handlers, however training ends."""
        before = {number: signal.getsignal(number) for number in (*_STOPPING, *_SAVING)}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)


class Checkpoints(Callback):
    """Save the state of training; this must be the last callback that has a state.

    Args:
        every_steps: steps between two states; None: after every evaluation.
        every_minutes: longest time between two states.
        log: receives a tag when a run is resumed in another number of processes.
        save: saves the state of a trainer in a folder; None: `save_state`. Tests pass their own.

    Attributes:
        saved: number of states saved by this process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_steps: int | None,
        every_minutes: float,
        evaluations: ValidationCallback,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
        save: Callable[[L.Trainer, Path], bool] | None = None,
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_s = 60 * every_minutes
        self.evaluations = evaluations
        self.signals = Signals()
        self.sink = log  # Lightning sets an attribute `log` on every callback
        self.clock = clock
        self.save = save or save_state
        self.saved = 0
        self._evaluations_seen = 0
        self._processes = 0
        self._saved_at = clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._saved_at = self.clock()
        self._evaluations_seen = self.evaluations.done
        if self._processes not in (0, trainer.world_size):
            self.sink.tags({"processes": f"{self._processes}, then {trainer.world_size}"})
        self._processes = trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Return the number of processes."""
        return {"processes": self._processes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of processes, to detect a change."""
        self._processes = state_dict["processes"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the state when it is due, and stop after a stop signal."""
        if not completes_step(trainer, batch_idx):
            return
        self.stop_if_requested(trainer)
        late = self.clock() - self._saved_at >= self.every_s
        due, requested = self._due(trainer.global_step), self.signals.save
        if trainer.strategy.reduce_boolean_decision(due or late or requested, all=False):
            self.signals.save = (
                False  # before saving: a signal that arrives meanwhile applies to the next step
            )
            self.save(trainer, self.folder)
            self.saved += 1
            self._saved_at = self.clock()

    def stop_if_requested(self, trainer: L.Trainer) -> None:
        """Save the state and stop after a stop signal.

        Raises:
            Stopped: after SIGTERM or SIGINT.
            RunError: if the state cannot be saved.
        """
        # each process receives signals by itself, but all must stop at the same step
        if trainer.strategy.reduce_boolean_decision(self.signals.stop is not None, all=False):
            if not self.save(trainer, self.folder):
                raise RunError(
                    "interrupted, and the state of training could not be saved: free some disk space; "
                    "--resume continues from the previous state, if there is one"
                )
            raise Stopped(self.signals.stop or signal.SIGTERM)

    def _due(self, step: int) -> bool:
        """Return whether a state is due by the number of steps or evaluations."""
        evaluated = self.evaluations.done > self._evaluations_seen
        self._evaluations_seen = self.evaluations.done
        return step % self.every_steps == 0 if self.every_steps else evaluated


class StopBeforeEvaluation(Callback):
    """Stop on a signal before an evaluation, which may take longer than the sender of the signal waits.

    This must come before `ValidationCallback`, which runs the missed evaluation when training is resumed.
    After the last step it does nothing, so that the last state contains the last evaluation.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal has requested it."""
        if not completes_step(trainer, batch_idx):
            return
        over = self.checkpoints.evaluations.budget.progress(trainer.global_step) >= 1
        if not trainer.strategy.reduce_boolean_decision(over, all=False):
            self.checkpoints.stop_if_requested(trainer)
