"""Callbacks around the training steps: seeds, loss logging and validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from medmim.randomness import stream_seed
from medmim.training.budget import Budget
from medmim.training.logger import Log

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
