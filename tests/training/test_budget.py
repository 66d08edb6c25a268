from functools import partial

import pytest

from medmim.config import PretrainSettings
from medmim.training.budget import Budget, budget_for, learning_rate_factor


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def settings(**words):
    return PretrainSettings(**words)


def test_steps_are_progress():
    budget = Budget(steps=4)
    assert [budget.progress(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_minutes_are_progress():
    clock = Clock()
    budget = Budget(minutes=2.0, clock=clock)
    budget.start()
    found = []
    for _ in range(5):
        found.append(budget.progress(7))
        clock.now += 40
    assert found == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_the_clock_runs_from_its_start():
    clock = Clock()
    budget = Budget(minutes=1.0, clock=clock)
    clock.now += 500
    assert budget.elapsed_s == 0
    budget.start()
    clock.now += 3
    assert budget.elapsed_s == 3


def test_time_before_a_resume_counts():
    clock = Clock()
    budget = Budget(minutes=1.0, clock=clock, spent_s=30.0)
    budget.start()
    clock.now += 15
    assert budget.progress(0) == 0.75


@pytest.mark.parametrize(
    ("words", "steps", "minutes"),
    [
        ({}, 2000, None),
        ({"steps": 7}, 7, None),
        ({"epochs": 3, "batch_size": 4}, 8, None),
        ({"epochs": 0.01, "batch_size": 4}, 1, None),
        ({"minutes": 1.5}, None, 1.5),
    ],
)
def test_settings_give_a_budget(words, steps, minutes):
    budget = budget_for(settings(**words), volumes=10)
    assert (budget.steps, budget.minutes) == (steps, minutes)


def test_the_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(number / 100, warmup=0.1) for number in range(101)]
    assert factors[0] == pytest.approx(1e-3)
    assert factors[5] == pytest.approx(0.5, abs=1e-3)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_the_learning_rate_may_start_and_end_above_zero():
    """SparK: from 0.5 % of the peak, to 0.1 % of it."""
    rate = partial(learning_rate_factor, warmup=0.25, start=0.005, end=0.001)
    assert rate(0.0) == 0.005
    assert rate(0.125) == pytest.approx(0.005 + 0.995 / 2)
    assert rate(0.25) == 1
    assert rate(0.625) == pytest.approx(0.001 + 0.999 / 2)
    assert rate(1.0) == pytest.approx(0.001)


def test_without_warmup_it_starts_high():
    assert learning_rate_factor(0.0, warmup=0.0) == 1
