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
from medmim.training.callbacks import ValidationCallback, completes_step
from medmim.training.logger import Log
from medmim.training.resume.states import save_state

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SAVING = (signal.SIGUSR1,)


class Signals(Callback):
    """Note SIGTERM, SIGINT and SIGUSR1 until a step is complete; SIGTERM or SIGINT twice stops at once.

    Attributes:
        stop: the last signal that wants an end, if any came.
        save: whether one that wants a save came and was not answered yet.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.save = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over, now that Lightning has taken them."""
        if threading.current_thread() is threading.main_thread():
            for number in (*_STOPPING, *_SAVING):
                signal.signal(number, self.note)

    def note(self, number: int, frame: object) -> None:
        """Note one signal.

        Raises:
            Stopped: for the same that wants an end again; the step is then lost, the last saved state is not.
        """
        if number in _SAVING:
            self.save = True
            return
        if number == self.stop:
            raise Stopped(number)
        self.stop = number

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Leave the signals as they were, however training ends."""
        before = {number: signal.getsignal(number) for number in (*_STOPPING, *_SAVING)}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)


class Checkpoints(Callback):
    """Save the state of training; must come last.

    Args:
        folder: of the run.
        every_steps: None: after every evaluation.
        every_minutes: at least this often.
        evaluations: tells when one was made.
        signals: tells when one came.
        log: gets a tag when a run goes on in another number of processes.
        clock: seconds; a seam for tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_steps: int | None,
        every_minutes: float,
        evaluations: ValidationCallback,
        signals: Signals,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_s = 60 * every_minutes
        self.evaluations = evaluations
        self.signals = signals
        self.sink = log  # Lightning puts its own `log` on every callback
        self.clock = clock
        self._seen = 0
        self._processes = 0
        self._saved_at = clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._saved_at = self.clock()
        self._seen = self.evaluations.done
        if self._processes not in (0, trainer.world_size):
            self.sink.tags({"processes": f"{self._processes}, then {trainer.world_size}"})
        self._processes = trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Return in how many processes the training ran."""
        return {"processes": self._processes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back, to tell if it is another number now."""
        self._processes = state_dict["processes"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time, and stop when a signal asks for it.

        Raises:
            Stopped: after SIGTERM or SIGINT.
        """
        if not completes_step(trainer, batch_idx):
            return
        self.stop_if_wanted(trainer)
        late = self.clock() - self._saved_at >= self.every_s
        due, wanted = self._due(trainer.global_step), self.signals.save
        if trainer.strategy.reduce_boolean_decision(due or late or wanted, all=False):
            self.signals.save = False  # before saving: a signal that comes meanwhile wants the next step
            save_state(trainer, self.folder)
            self._saved_at = self.clock()

    def stop_if_wanted(self, trainer: L.Trainer) -> None:
        """Save and stop after a signal that asks for it.

        Raises:
            Stopped: after SIGTERM or SIGINT.
            RunError: if the state cannot be saved.
        """
        # each process sees signals for itself, but all must stop at the same step
        if trainer.strategy.reduce_boolean_decision(self.signals.stop is not None, all=False):
            if not save_state(trainer, self.folder):
                raise RunError(
                    "interrupted, and the state of training could not be saved: free the disk; --resume goes "
                    "on from the state before, if there is one"
                )
            raise Stopped(self.signals.stop or signal.SIGTERM)

    def _due(self, step: int) -> bool:
        """Return whether the plan is to save, as each process knows for itself."""
        evaluated = self.evaluations.done > self._seen
        self._seen = self.evaluations.done
        return step % self.every_steps == 0 if self.every_steps else evaluated


class StopBeforeEvaluation(Callback):
    """Let a signal stop before an evaluation, which may take longer than its sender waits.

    Must come before `ValidationCallback`, which catches up when training goes on. After the last step it does
    not: the last state holds the last evaluation.

    Args:
        checkpoints: of the training.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal asks for it.

        Raises:
            Stopped: after SIGTERM or SIGINT.
        """
        if not completes_step(trainer, batch_idx):
            return
        over = self.checkpoints.evaluations.budget.progress(trainer.global_step) >= 1
        if not trainer.strategy.reduce_boolean_decision(over, all=False):
            self.checkpoints.stop_if_wanted(trainer)
