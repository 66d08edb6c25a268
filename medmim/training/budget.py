"""The length of a training run, in steps, epochs or minutes; the schedule that follows its progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from medmim.config.runs import RunSettings

_DEFAULT_STEPS = 2000
_ENDLESS = 2**40
_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "processor": time.process_time}


@dataclass(frozen=True)
class StepPlan:
    """The number of patches per step, and what was done before this number applied.

    Attributes:
        per_step: patches per step.
        steps: steps of the whole training; None for a budget in minutes.
        since: first step with this number of patches: 0, or the step of a resume with other devices.
        drawn: patches drawn before `since`.
        progress: share of the budget used before `since`.
    """

    per_step: int
    steps: int | None
    since: int = 0
    drawn: int = 0
    progress: float = 0.0

    def drawn_at(self, step: int) -> int:
        """Return the number of patches drawn in the first `step` steps."""
        return self.drawn + (step - self.since) * self.per_step

    def progress_at(self, step: int) -> float:
        """Return the share of the steps done after `step` of them, 0 to 1; only for a budget in steps."""
        if self.steps is None or step >= self.steps:
            return 1.0
        return self.progress + (1 - self.progress) * ((step - self.since) / (self.steps - self.since))


@dataclass
class Budget:
    """A number of steps, or minutes.

    Attributes:
        steps: number of steps; None for a budget in minutes.
        minutes: minutes of `clock`; None for a budget in steps.
        draws: patches of the whole training, for a budget in epochs: the steps follow from them.
        per_step: patches per step.
        clock: returns seconds.
        spent_s: seconds used before a resume.
    """

    steps: int | None = None
    minutes: float | None = None
    draws: int | None = None
    per_step: int = 1
    clock: Callable[[], float] = time.monotonic
    spent_s: float = 0.0
    _schedule: StepPlan = field(init=False)
    _started: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._schedule = StepPlan(self.per_step, self.steps)

    def start(self) -> None:
        """Start the clock."""
        self._started = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, including those before a resume."""
        return self.spent_s + (self.clock() - self._started if self._started is not None else 0.0)

    def progress(self, step: int) -> float:
        """Return the share of the budget used after `step` steps, 0 to 1."""
        if self.steps is not None:
            return self._schedule.progress_at(step)
        return min(self.elapsed_s / (60 * (self.minutes or 1e-9)), 1.0)

    def drawn(self, step: int) -> int:
        """Return the number of patches drawn in the first `step` steps."""
        return self._schedule.drawn_at(step)

    @property
    def all_draws(self) -> int:
        """Patches that the whole training draws; an upper bound for a budget in minutes."""
        return _ENDLESS if self.steps is None else self.drawn(self.steps)

    @property
    def schedule(self) -> dict[str, Any]:
        """The step plan as a saved state keeps it for `resume_at`."""
        return asdict(self._schedule)

    def resume_at(self, step: int, schedule: Mapping[str, Any]) -> None:
        """Continue at `step` with the next patches.

        With the same number of patches per step as before, training continues as if it had never stopped.
        With another number, the remaining steps are done, or, for a budget in epochs, as many as the
        remaining patches make; progress continues from where it was, and with it learning rate and
        evaluations.
        """
        before = StepPlan(**schedule)
        if before.per_step == self.per_step:
            self._schedule, self.steps = before, before.steps
            return
        drawn = before.drawn_at(step)
        if self.draws is not None:
            self.steps = step + max(math.ceil((self.draws - drawn) / self.per_step), 0)
        self._schedule = StepPlan(self.per_step, self.steps, step, drawn, before.progress_at(step))


def agreed_progress(budget: Budget, step: int, trainer: L.Trainer) -> float:
    """Return the progress of the first process in all processes, whose clocks differ; call it in each."""
    progress = budget.progress(step)
    if budget.steps is None and trainer.world_size > 1:
        progress = float(trainer.strategy.broadcast(progress))
    return progress


def budget_for(settings: RunSettings, *, volumes: int) -> Budget:
    """Return the budget of a run; an epoch draws each volume once."""
    per_step = settings.draws_per_step
    if settings.minutes is not None:
        return Budget(minutes=settings.minutes, per_step=per_step, clock=_CLOCKS[settings.time_source])
    if settings.epochs is not None:
        draws = math.ceil(settings.epochs * volumes)
        return Budget(steps=max(1, math.ceil(draws / per_step)), draws=draws, per_step=per_step)
    return Budget(steps=settings.steps or _DEFAULT_STEPS, per_step=per_step)


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
        return {"spent_s": self.budget.elapsed_s, "pace": self.budget.schedule}

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
