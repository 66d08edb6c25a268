"""Callbacks around the training steps: seeds, loss logging, validation and the progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from medmim.randomness import stream_seed
from medmim.training.budget import Budget


@runtime_checkable
class Log(Protocol):
    """Receives metrics, tags and pictures while training runs."""

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Log metrics at a step."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the whole run."""

    def picture(self, key: str, png: bytes, *, step: int) -> None:
        """Log a PNG picture at a step; `key` is the same throughout the run."""


LOG_EVERY_STEPS = 10


class StepSeeding(Callback):
    """Seed PyTorch's generators from the step, so that a resumed step repeats the same dropout."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of all devices of this process."""
        part = batch_idx % trainer.accumulate_grad_batches
        torch.manual_seed(stream_seed(self.seed, "step", trainer.global_step, part, trainer.global_rank))


def completes_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether a batch is the last of those whose gradients make up one step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class LossLogger(Callback):
    """Log the mean loss of every few steps, ignoring losses that are not finite (see `FiniteGuard`).

    Attributes:
        recent: mean of the last logged steps, for the progress bar.
    """

    @property
    def state_key(self) -> str:
        """Key in saved states: the first name of the class, so that states of earlier versions load."""
        return "Losses"

    def __init__(self, log: Log) -> None:
        self.sink = log  # Lightning sets an attribute `log` on every callback
        self.recent = math.nan
        self._pending: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect one loss."""
        parts = trainer.accumulate_grad_batches  # Lightning divides the loss by it
        self._pending.append(outputs["loss"].detach().float() * parts)
        full = len(self._pending) >= LOG_EVERY_STEPS * parts
        if completes_step(trainer, batch_idx) and (full or trainer.global_step == 1):
            self._flush(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the remaining losses."""
        if self._pending:
            self._flush(trainer)

    def _flush(self, trainer: L.Trainer) -> None:
        own = torch.tensor(_mean(self._pending), device=trainer.strategy.root_device)  # required by nccl
        mean = float(trainer.strategy.reduce(own, reduce_op="mean"))
        self._pending.clear()
        if not math.isfinite(mean):  # every one of these steps was skipped
            return
        self.recent = mean
        rate = trainer.optimizers[0].param_groups[-1]["lr"]  # that of the head, which is never frozen
        self.sink.metrics({"train/loss": mean, "train/lr": rate}, step=trainer.global_step)

    @property
    def last(self) -> float:
        """Mean of the steps not yet logged, or of the last that were."""
        return _mean(self._pending) if self._pending else self.recent

    def state_dict(self) -> dict[str, Any]:
        """Return the losses not yet logged, and the last logged mean."""
        return {"waiting": list(self._pending), "recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the losses."""
        self._pending = list(state_dict["waiting"])
        self.recent = state_dict["recent"]


def _mean(losses: list[Tensor]) -> float:
    """Return the mean of the finite losses, or NaN."""
    stacked = torch.stack([loss.to(losses[-1].device) for loss in losses])  # resumed losses are on the CPU
    return float(stacked[torch.isfinite(stacked)].mean())


class ValidationCallback(Callback):
    """Evaluate at regular shares of the budget and keep the best weights.

    Args:
        evaluate: returns metrics after a step; it may also log pictures.
        times: number of evaluations in the whole run; the last is at its end.
        budget: gives the progress.
        best: metric whose highest value selects the weights; None: the last weights are the result.
        patience: number of evaluations without a higher value after which training stops; None: never.

    Attributes:
        best_value: highest value so far.
        best_weights: the module's weights at that value, on the CPU.
        last: metrics of the last evaluation.
        best_at: number of the evaluation with that value.
        done: number of evaluations so far.
    """

    @property
    def state_key(self) -> str:
        """Key in saved states: the first name of the class, so that states of earlier versions load."""
        return "Evaluations"

    def __init__(
        self,
        evaluate: Callable[[int], Mapping[str, float]],
        *,
        times: int,
        budget: Budget,
        log: Log,
        best: str | None = None,
        patience: int | None = None,
    ) -> None:
        self.evaluate = evaluate
        self.times = times
        self.budget = budget
        self.sink = log
        self.best = best
        self.patience = patience
        self.best_at = 0
        self.best_value = -math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.last: dict[str, float] = {}
        self.done = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when the next share of the budget is used."""
        self.evaluate_if_due(trainer, pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the evaluation before which a signal stopped the training."""
        self.evaluate_if_due(trainer, pl_module)

    def evaluate_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate in the first process if the next share of the budget is used."""
        due = math.floor(self.budget.progress(trainer.global_step) * self.times + 1e-9)
        if due <= self.done:
            return
        self.done = due
        if not trainer.is_global_zero:
            return
        training = pl_module.training
        pl_module.eval()
        with torch.no_grad():
            self.last = dict(self.evaluate(trainer.global_step))
        pl_module.train(training)
        if self.last:
            self.sink.metrics(self.last, step=trainer.global_step)
        value = self.last.get(self.best, -math.inf) if self.best else -math.inf
        if value > self.best_value:
            self.best_value, self.best_at = value, self.done
            weights = pl_module.state_dict()
            self.best_weights = {key: one.detach().cpu().clone() for key, one in weights.items()}
        if self.patience and self.best and self.done - self.best_at >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the best and the last evaluation."""
        return {
            "best_value": self.best_value,
            "best_at": self.best_at,
            "best_weights": self.best_weights,
            "last": self.last,
            "done": self.done,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best and the last evaluation."""
        self.best_value = state_dict["best_value"]
        self.best_at = state_dict.get("best_at", state_dict["done"])  # states of 0.1.0 have none
        self.best_weights = state_dict["best_weights"]
        self.last = state_dict["last"]
        self.done = state_dict["done"]


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
