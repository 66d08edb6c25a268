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

from medmim.errors import Stopped
from medmim.training.callbacks import Evaluations, completes_step
from medmim.training.log import Log
from medmim.training.states import save_state

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SAVING = (signal.SIGUSR1,)


class Signals(Callback):
    """Note SIGTERM, SIGINT and SIGUSR1 until a step is complete; SIGTERM or SIGINT twice stops at once.

    Attributes:
        wanted: the last signal that was not answered yet.
    """

    def __init__(self) -> None:
        self.wanted: int | None = None

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
        if number == self.wanted and number in _STOPPING:
            raise Stopped(number)
        self.wanted = number

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
        evaluations: Evaluations,
        signals: Signals,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_s = 60 * every_minutes
        self.evaluations = evaluations
        self.signals = signals
        self.log = log
        self.clock = clock
        self._seen = 0
        self._processes = 0
        self._saved_at = clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._saved_at = self.clock()
        self._seen = self.evaluations.done
        if self._processes not in (0, trainer.world_size):
            self.log.tags({"processes": f"{self._processes}, then {trainer.world_size}"})
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
        # each process sees signals and its clock for itself, but all must save at the same step
        late = self.clock() - self._saved_at >= self.every_s
        stop, save = self.signals.wanted in _STOPPING, self.signals.wanted in _SAVING
        due, stop, save = (
            trainer.strategy.reduce_boolean_decision(wish, all=False)
            for wish in (self._due(trainer.global_step) or late, stop, save)
        )
        if due or stop or save:
            save_state(trainer, self.folder)
            self._saved_at = self.clock()
        if stop:
            raise Stopped(self.signals.wanted or signal.SIGTERM)
        if save:
            self.signals.wanted = None

    def _due(self, step: int) -> bool:
        evaluated = self.evaluations.done > self._seen
        self._seen = self.evaluations.done
        return step % self.every_steps == 0 if self.every_steps else evaluated
