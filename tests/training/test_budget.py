"""Tests of `medmim/training/budget.py`."""

import time

import pytest

from medmim.config.runs import PretrainSettings
from medmim.training.budget import Budget, budget_for


class Clock:
    """A clock that tests advance, in seconds."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def settings(**words):
    return PretrainSettings(**words)


def test_progress_follows_the_steps():
    budget = Budget(steps=4)
    assert [budget.progress(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_progress_follows_the_minutes():
    clock = Clock()
    budget = Budget(minutes=2.0, clock=clock)
    budget.start()
    found = []
    for _ in range(5):
        found.append(budget.progress(7))
        clock.now += 40
    assert found == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_time_counts_from_the_start():
    clock = Clock()
    budget = Budget(minutes=1.0, clock=clock)
    clock.now += 500
    assert budget.elapsed_s == 0
    budget.start()
    clock.now += 3
    assert budget.elapsed_s == 3


def test_minutes_may_be_cpu_time():
    budget = budget_for(settings(minutes=1.0, time_source="processor"), volumes=10)
    budget.start()
    time.sleep(0.2)
    assert budget.elapsed_s < 0.1  # sleeping uses no CPU time
    before = budget.elapsed_s
    sum(number * number for number in range(200_000))
    assert budget.elapsed_s > before


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
def test_the_budget_follows_from_the_settings(words, steps, minutes):
    budget = budget_for(settings(**words), volumes=10)
    assert (budget.steps, budget.minutes) == (steps, minutes)


def budget_of(*, epochs=None, batch_size=4):
    """A budget of 6 steps, or of 24 patches."""
    words = {"steps": 6} if epochs is None else {"epochs": epochs}
    return budget_for(settings(batch_size=batch_size, **words), volumes=24)


@pytest.mark.parametrize("epochs", [None, 1])
def test_resuming_with_the_same_patches_per_step_continues_exactly(epochs):
    first, second = budget_of(epochs=epochs), budget_of(epochs=epochs)
    second.resume_at(2, first.step_plan)
    assert [second.progress(step) for step in range(8)] == [first.progress(step) for step in range(8)]
    assert (second.drawn(2), second.all_draws) == (8, 24)


@pytest.mark.parametrize(("epochs", "steps", "draws"), [(None, 6, 16), (1, 10, 24)])
def test_another_number_of_devices_resumes_with_the_next_patches(epochs, steps, draws):
    first, second = budget_of(epochs=epochs), budget_of(epochs=epochs, batch_size=2)
    second.resume_at(2, first.step_plan)
    assert second.steps == steps
    assert (second.drawn(2), second.drawn(3), second.all_draws) == (8, 10, draws)
    shares = [second.progress(step) for step in range(2, steps + 1)]
    assert shares == pytest.approx([1 / 3 + 2 / 3 * number / (steps - 2) for number in range(steps - 1)])
    assert shares[-1] == 1.0
    third, fourth = budget_of(epochs=epochs, batch_size=2), budget_of(epochs=epochs)
    third.resume_at(4, second.step_plan)  # the same number again, then the first one
    assert [third.progress(step) for step in range(2, 11)] == [second.progress(step) for step in range(2, 11)]
    fourth.resume_at(4, third.step_plan)
    assert fourth.drawn(4) == 12
    assert fourth.progress(4) == third.progress(4)
    assert fourth.steps == (6 if epochs is None else 7)


def test_a_budget_in_minutes_resumes_with_the_next_patches():
    first = budget_for(settings(batch_size=4, minutes=1.0), volumes=24)
    second = budget_for(settings(batch_size=2, minutes=1.0), volumes=24)
    second.resume_at(5, first.step_plan)
    assert (second.drawn(5), second.drawn(6)) == (20, 22)
    assert second.steps is None
