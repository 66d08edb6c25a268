"""How long to train, as a share of progress that schedules and evaluations follow."""

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
class StepSchedule:
    """From which step on how many patches make a step, and what there was before.

    Attributes:
        per_step: patches of a step.
        steps: of the whole training; None when `minutes` rule.
        since: step from which on this holds: 0, or that of a resume with other devices.
        drawn: patches drawn before.
        progress: share of the budget used before.
    """

    per_step: int
    steps: int | None
    since: int = 0
    drawn: int = 0
    progress: float = 0.0

    def drawn_at(self, step: int) -> int:
        """Return how many patches were drawn when `step` steps are done."""
        return self.drawn + (step - self.since) * self.per_step

    def progress_at(self, step: int) -> float:
        """Return how much of the steps is done after `step` of them, 0 to 1; only where steps rule."""
        if self.steps is None or step >= self.steps:
            return 1.0
        return self.progress + (1 - self.progress) * ((step - self.since) / (self.steps - self.since))


@dataclass
class Budget:
    """A number of steps, or minutes.

    Attributes:
        steps: number of steps; None when `minutes` rule.
        minutes: of the clock; None when `steps` rule.
        draws: patches of the whole training, where epochs were asked for: steps follow from them.
        per_step: patches of a step.
        clock: gives seconds.
        spent_s: seconds used before a resume.
    """

    steps: int | None = None
    minutes: float | None = None
    draws: int | None = None
    per_step: int = 1
    clock: Callable[[], float] = time.monotonic
    spent_s: float = 0.0
    _pace: StepSchedule = field(init=False)
    _begun: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._pace = StepSchedule(self.per_step, self.steps)

    def start(self) -> None:
        """Start the clock."""
        self._begun = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.spent_s + (self.clock() - self._begun if self._begun is not None else 0.0)

    def progress(self, step: int) -> float:
        """Return how much of the budget is used after `step` steps, 0 to 1."""
        if self.steps is not None:
            return self._pace.progress_at(step)
        return min(self.elapsed_s / (60 * (self.minutes or 1e-9)), 1.0)

    def drawn(self, step: int) -> int:
        """Return how many patches were drawn when `step` steps are done."""
        return self._pace.drawn_at(step)

    @property
    def all_draws(self) -> int:
        """Patches that the whole training draws; more than it can, when `minutes` rule."""
        return _ENDLESS if self.steps is None else self.drawn(self.steps)

    @property
    def pace(self) -> dict[str, Any]:
        """What a saved state keeps for `go_on`."""
        return asdict(self._pace)

    def go_on(self, step: int, pace: Mapping[str, Any]) -> None:
        """Continue at `step` with the next patches.

        With as many patches a step as before, all is as if there had been no stop. With another number, the
        steps that are left are done, or, of epochs, as many as the patches left make; progress goes on from
        where it was, and with it learning rate and evaluations.

        Args:
            step: steps done.
            pace: of the saved state.
        """
        before = StepSchedule(**pace)
        if before.per_step == self.per_step:
            self._pace, self.steps = before, before.steps
            return
        drawn = before.drawn_at(step)
        if self.draws is not None:
            self.steps = step + max(math.ceil((self.draws - drawn) / self.per_step), 0)
        self._pace = StepSchedule(self.per_step, self.steps, step, drawn, before.progress_at(step))


def agreed_progress(budget: Budget, step: int, trainer: L.Trainer) -> float:
    """Return the progress of the first process: with minutes, each has its own clock; called in every one."""
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


def learning_rate_factor(progress: float, *, warmup: float, start: float = 1e-3, end: float = 0.0) -> float:
    """Return the factor of the learning rate: linear from `start` over `warmup`, then a cosine to `end`."""
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    return along_cosine(1.0, end, (progress - warmup) / (1 - warmup))


def along_cosine(first: float, last: float, progress: float) -> float:
    """Return what lies between two values at a share of half a cosine wave."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
