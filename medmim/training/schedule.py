"""The learning-rate schedule: warm-up, then a cosine, over the progress of the budget."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from medmim.config.runs import RunSettings
from medmim.training.budget import Budget, agreed_progress


class Schedule(Callback):
    """Set learning rate and weight decay from the progress of the budget; stop when the budget is used.

    Of the settings it uses `warmup`, the share of the training run over which the learning rate rises;
    `warmup_start` and `final_lr`, relative to its peak; and `weight_decay_end`, reached along a cosine.
    """

    def __init__(self, budget: Budget, settings: RunSettings) -> None:
        self.budget = budget
        self.settings = settings

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.budget.start()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of every parameter group, and the weight decay of those that decay."""
        settings, progress = self.settings, agreed_progress(self.budget, trainer.global_step, trainer)
        factor = learning_rate_factor(
            progress, warmup=settings.warmup, start=settings.warmup_start, end=settings.final_lr
        )
        for group in trainer.optimizers[0].param_groups:
            learns = progress >= group.get("begins", 0.0)  # a frozen encoder starts later
            group["lr"] = group["initial_lr"] * factor if learns else 0.0
            if settings.weight_decay_end is not None and "initial_weight_decay" in group:
                first = group["initial_weight_decay"]
                group["weight_decay"] = cosine_between(first, settings.weight_decay_end, progress)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at the end of the budget."""
        done = self.budget.progress(trainer.global_step) >= 1
        if trainer.strategy.reduce_boolean_decision(done, all=False):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the time used and the step plan (key `pace` since the first version)."""
        return {"spent_s": self.budget.elapsed_s, "pace": self.budget.step_plan}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the clock; `fit` restores the step plan before it builds the trainer."""
        self.budget.spent_s = state_dict["spent_s"]


def learning_rate_factor(progress: float, *, warmup: float, start: float = 1e-3, end: float = 0.0) -> float:
    """Return the factor of the learning rate: linear from `start` over `warmup`, then a cosine to `end`."""
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    return cosine_between(1.0, end, (progress - warmup) / (1 - warmup))


def cosine_between(first: float, last: float, progress: float) -> float:
    """Interpolate between two values along half a cosine wave."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
