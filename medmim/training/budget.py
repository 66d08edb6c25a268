"""The length of a training run, in steps, epochs or minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning as L

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
    _step_plan: StepPlan = field(init=False)
    _started: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._step_plan = StepPlan(self.per_step, self.steps)

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
            return self._step_plan.progress_at(step)
        return min(self.elapsed_s / (60 * (self.minutes or 1e-9)), 1.0)

    def drawn(self, step: int) -> int:
        """Return the number of patches drawn in the first `step` steps."""
        return self._step_plan.drawn_at(step)

    @property
    def all_draws(self) -> int:
        """Patches that the whole training draws; an upper bound for a budget in minutes."""
        return _ENDLESS if self.steps is None else self.drawn(self.steps)

    @property
    def step_plan(self) -> dict[str, Any]:
        """The step plan as a saved state keeps it for `resume_at`."""
        return asdict(self._step_plan)

    def resume_at(self, step: int, step_plan: Mapping[str, Any]) -> None:
        """Continue at `step` with the next patches.

        With the same number of patches per step as before, training continues as if it had never stopped.
        With another number, the remaining steps are done, or, for a budget in epochs, as many as the
        remaining patches make; progress continues from where it was, and with it learning rate and
        evaluations.
        """
        before = StepPlan(**step_plan)
        if before.per_step == self.per_step:
            self._step_plan, self.steps = before, before.steps
            return
        drawn = before.drawn_at(step)
        if self.draws is not None:
            self.steps = step + max(math.ceil((self.draws - drawn) / self.per_step), 0)
        self._step_plan = StepPlan(self.per_step, self.steps, step, drawn, before.progress_at(step))


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
