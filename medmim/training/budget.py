"""How long to train, as a share of progress that schedules and evaluations follow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from medmim.config import RunSettings

_DEFAULT_STEPS = 2000
_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "processor": time.process_time}


@dataclass
class Budget:
    """A number of steps, or minutes.

    Attributes:
        steps: number of steps; None when `minutes` rule.
        minutes: of the clock; None when `steps` rule.
        clock: gives seconds.
        spent_s: seconds used before a resume.
    """

    steps: int | None = None
    minutes: float | None = None
    clock: Callable[[], float] = time.monotonic
    spent_s: float = 0.0
    _begun: float | None = field(default=None, init=False)

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
            return min(step / self.steps, 1.0)
        return min(self.elapsed_s / (60 * (self.minutes or 1e-9)), 1.0)


def budget_for(settings: RunSettings, *, volumes: int) -> Budget:
    """Return the budget of a run; an epoch draws each volume once."""
    if settings.minutes is not None:
        return Budget(minutes=settings.minutes, clock=_CLOCKS[settings.clock])
    if settings.epochs is not None:
        return Budget(steps=max(1, math.ceil(settings.epochs * volumes / settings.draws_per_step)))
    return Budget(steps=settings.steps or _DEFAULT_STEPS)


def learning_rate_factor(progress: float, *, warmup: float, start: float = 1e-3, end: float = 0.0) -> float:
    """Return the factor of the learning rate: linear from `start` over `warmup`, then a cosine to `end`."""
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    return along_cosine(1.0, end, (progress - warmup) / (1 - warmup))


def along_cosine(first: float, last: float, progress: float) -> float:
    """Return what lies between two values at a share of half a cosine wave."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
