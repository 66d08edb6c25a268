"""The progress bar of training on stderr: step, loss, steps per second and remaining time."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from medmim.training.budget import Budget
from medmim.training.callbacks import LossLogger


class ProgressBar(Callback):
    """Draw one line that follows the budget; without a terminal, print a line after every tenth of it."""

    def __init__(
        self, title: str, budget: Budget, losses: LossLogger, *, console: Console | None = None
    ) -> None:
        self.budget = budget
        self.losses = losses
        self.title = title
        self.console = console or Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[state]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self.bar.add_task(title, total=1.0, state="")
        self._tenths = 0
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the progress bar."""
        self._first_step = trainer.global_step
        self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the progress bar."""
        progress = self.budget.progress(trainer.global_step)
        state = self._state(trainer.global_step, progress)
        self.bar.update(self._task, completed=progress, state=state)
        if not self.console.is_terminal and int(progress * 10) > self._tenths:
            self._tenths = int(progress * 10)
            self.console.print(f"{self.title}  {progress:.0%}  {state}", highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the final line on the screen."""
        self.bar.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Restore the terminal."""
        self.bar.stop()

    def _state(self, step: int, progress: float) -> str:
        elapsed = self.budget.elapsed_s
        left = elapsed * (1 - progress) / max(progress, 1e-6)
        rate = (step - self._first_step) / max(elapsed - self.budget.spent_s, 1e-6)
        return f"step {step}  loss {self.losses.recent:.3f}  {rate:.1f} steps/s  {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
