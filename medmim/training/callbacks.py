"""What runs around the training steps: schedule and end, losses, evaluations, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from medmim.errors import RunError
from medmim.training.budget import Budget, along_cosine, learning_rate_factor
from medmim.training.checkpoint import save_state
from medmim.training.log import Log

LOG_EVERY_STEPS = 10


class Schedule(Callback):
    """Set learning rate and weight decay from the budget's progress and stop when it is used up.

    Args:
        budget: gives the progress.
        warmup: share of the training over which the learning rate rises.
        warmup_start, final_lr: learning rate at the beginning and at the end, relative to its peak.
        weight_decay_end: weight decay at the end, reached along a cosine; None: it stays.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        warmup: float,
        warmup_start: float = 1e-3,
        final_lr: float = 0.0,
        weight_decay_end: float | None = None,
    ) -> None:
        self.budget = budget
        self.warmup = warmup
        self.warmup_start = warmup_start
        self.final_lr = final_lr
        self.weight_decay_end = weight_decay_end

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.budget.start()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of every group, and the decay of those that have one."""
        progress = self.budget.progress(trainer.global_step)
        factor = learning_rate_factor(
            progress, warmup=self.warmup, start=self.warmup_start, end=self.final_lr
        )
        for group in trainer.optimizers[0].param_groups:
            learns = progress >= group.get("begins", 0.0)  # a frozen encoder begins later
            group["lr"] = group["initial_lr"] * factor if learns else 0.0
            if self.weight_decay_end is not None and "initial_weight_decay" in group:
                first = group["initial_weight_decay"]
                group["weight_decay"] = along_cosine(first, self.weight_decay_end, progress)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at the end of the budget."""
        if self.budget.progress(trainer.global_step) >= 1:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the time spent."""
        return {"spent_s": self.budget.elapsed_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the clock."""
        self.budget.spent_s = state_dict["spent_s"]


class Losses(Callback):
    """Log the mean loss of every few steps; stop at once when a loss is not finite.

    Attributes:
        recent: mean of the last logged steps, for the progress bar.
    """

    def __init__(self, log: Log) -> None:
        self.sink = log
        self.recent = math.nan
        self._waiting: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect one loss."""
        self._waiting.append(outputs["loss"].detach().float())
        if len(self._waiting) >= LOG_EVERY_STEPS or trainer.global_step == 1:
            self._flush(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what is left."""
        if self._waiting:
            self._flush(trainer)

    def _flush(self, trainer: L.Trainer) -> None:
        self.recent = float(torch.stack(self._waiting).mean())
        self._waiting.clear()
        step = trainer.global_step
        if not math.isfinite(self.recent):
            raise RunError(f"the loss is not finite at step {step}: lower --lr, or use --precision fp32")
        rate = trainer.optimizers[0].param_groups[-1]["lr"]  # that of the head, which is never frozen
        self.sink.metrics({"train/loss": self.recent, "train/lr": rate}, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Return the losses not yet logged, and the last that were."""
        return {"waiting": list(self._waiting), "recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self._waiting = list(state_dict["waiting"])
        self.recent = float(torch.stack(self._waiting).mean()) if self._waiting else state_dict["recent"]


class Evaluations(Callback):
    """Evaluate at even shares of the budget and remember the best weights.

    Args:
        evaluate: from the step to metrics; it may log pictures.
        times: evaluations in the whole run; the last is at its end.
        budget: gives the progress.
        log: where metrics go.
        best: metric whose highest value decides, or None: the last weights are the result.

    Attributes:
        best_value: highest value so far.
        best_weights: the module's weights then.
        last: metrics of the last evaluation.
    """

    def __init__(
        self,
        evaluate: Callable[[int], Mapping[str, float]],
        *,
        times: int,
        budget: Budget,
        log: Log,
        best: str | None,
    ) -> None:
        self.evaluate = evaluate
        self.times = times
        self.budget = budget
        self.sink = log
        self.best = best
        self.best_value = -math.inf
        self.best_weights: dict[str, Tensor] = {}
        self.last: dict[str, float] = {}
        self.done = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate when the next share of the budget is used."""
        due = math.floor(self.budget.progress(trainer.global_step) * self.times + 1e-9)
        if due <= self.done:
            return
        self.done = due
        training = pl_module.training
        pl_module.eval()
        with torch.no_grad():
            self.last = dict(self.evaluate(trainer.global_step))
        pl_module.train(training)
        if self.last:
            self.sink.metrics(self.last, step=trainer.global_step)
        self._keep_best(pl_module)

    def _keep_best(self, pl_module: L.LightningModule) -> None:
        value = self.last.get(self.best, -math.inf) if self.best else -math.inf
        if value > self.best_value:
            self.best_value = value
            self.best_weights = {
                key: value.detach().cpu().clone() for key, value in pl_module.state_dict().items()
            }

    def state_dict(self) -> dict[str, Any]:
        """Return what was best, and last."""
        return {
            "best_value": self.best_value,
            "best_weights": self.best_weights,
            "last": self.last,
            "done": self.done,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best_value = state_dict["best_value"]
        self.best_weights = state_dict["best_weights"]
        self.last = state_dict["last"]
        self.done = state_dict["done"]


class Checkpoints(Callback):
    """Save the state of training every few steps, or when an evaluation was made; must come last.

    Args:
        folder: of the run.
        every_steps: None: after every evaluation.
        evaluations: tells when one was made.
    """

    def __init__(self, folder: Path, *, every_steps: int | None, evaluations: Evaluations) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.evaluations = evaluations
        self._seen = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time."""
        due = self.evaluations.done > self._seen
        self._seen = self.evaluations.done
        if trainer.global_step % self.every_steps == 0 if self.every_steps else due:
            save_state(trainer, self.folder)
