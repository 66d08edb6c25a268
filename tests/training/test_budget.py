"""Tests of `medmim/training/budget.py`."""

import math
import time
from functools import partial

import pytest
from fake_trainer import Module, Trainer

from medmim.config.runs import PretrainSettings
from medmim.training.budget import Budget, Schedule, budget_for, learning_rate_factor


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
def test_resuming_with_the_same_patches_per_step_continues_the_schedule_exactly(epochs):
    first, second = budget_of(epochs=epochs), budget_of(epochs=epochs)
    second.resume_at(2, first.schedule)
    assert [second.progress(step) for step in range(8)] == [first.progress(step) for step in range(8)]
    assert (second.drawn(2), second.all_draws) == (8, 24)


@pytest.mark.parametrize(("epochs", "steps", "draws"), [(None, 6, 16), (1, 10, 24)])
def test_another_number_of_devices_resumes_with_the_next_patches(epochs, steps, draws):
    first, second = budget_of(epochs=epochs), budget_of(epochs=epochs, batch_size=2)
    second.resume_at(2, first.schedule)
    assert second.steps == steps
    assert (second.drawn(2), second.drawn(3), second.all_draws) == (8, 10, draws)
    shares = [second.progress(step) for step in range(2, steps + 1)]
    assert shares == pytest.approx([1 / 3 + 2 / 3 * number / (steps - 2) for number in range(steps - 1)])
    assert shares[-1] == 1.0
    third, fourth = budget_of(epochs=epochs, batch_size=2), budget_of(epochs=epochs)
    third.resume_at(4, second.schedule)  # the same number again, then the first one
    assert [third.progress(step) for step in range(2, 11)] == [second.progress(step) for step in range(2, 11)]
    fourth.resume_at(4, third.schedule)
    assert fourth.drawn(4) == 12
    assert fourth.progress(4) == third.progress(4)
    assert fourth.steps == (6 if epochs is None else 7)


def test_a_budget_in_minutes_resumes_with_the_next_patches():
    first = budget_for(settings(batch_size=4, minutes=1.0), volumes=24)
    second = budget_for(settings(batch_size=2, minutes=1.0), volumes=24)
    second.resume_at(5, first.schedule)
    assert (second.drawn(5), second.drawn(6)) == (20, 22)
    assert second.steps is None


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
    """As in SparK: the schedule starts at 0.5 % and ends at 0.1 % of the peak."""
    rate = partial(learning_rate_factor, warmup=0.25, start=0.005, end=0.001)
    assert rate(0.0) == 0.005
    assert rate(0.125) == pytest.approx(0.005 + 0.995 / 2)
    assert rate(0.25) == 1
    assert rate(0.625) == pytest.approx(0.001 + 0.999 / 2)
    assert rate(1.0) == pytest.approx(0.001)


def test_without_warmup_the_learning_rate_starts_at_its_peak():
    assert learning_rate_factor(0.0, warmup=0.0) == 1


def test_the_schedule_sets_the_learning_rate_and_stops_the_training():
    schedule, trainer = Schedule(Budget(steps=4), PretrainSettings(warmup=0.0)), Trainer()
    rates = []
    for step in range(4):
        trainer.global_step = step
        schedule.on_train_batch_start(trainer, Module(), None, step)
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        trainer.global_step = step + 1
        schedule.on_train_batch_end(trainer, Module(), {}, None, step)
        assert trainer.should_stop == (step == 3)
    assert rates[0] == 2.0
    assert rates[2] == pytest.approx(1.0)


def test_the_schedule_changes_the_weight_decay_of_groups_that_have_one():
    trainer = Trainer()
    decayed, flat = {"initial_lr": 1.0, "initial_weight_decay": 0.04}, {"initial_lr": 1.0}
    trainer.optimizers[0].param_groups = [decayed, flat]
    schedule = Schedule(Budget(steps=4), PretrainSettings(warmup=0.0, weight_decay_end=0.2))
    found = []
    for trainer.global_step in range(4):
        schedule.on_train_batch_start(trainer, Module(), None, trainer.global_step)
        found.append(decayed["weight_decay"])
    middle = [0.2 - 0.16 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert found == pytest.approx(middle)
    assert "weight_decay" not in flat


def test_the_schedule_saves_the_elapsed_time():
    clock = iter([10.0, 17.0])
    budget = Budget(minutes=1.0, clock=lambda: next(clock))
    schedule = Schedule(budget, PretrainSettings())
    schedule.on_train_start(Trainer(), Module())
    saved = schedule.state_dict()
    again = Budget(minutes=1.0)
    Schedule(again, PretrainSettings()).load_state_dict(saved)
    assert again.elapsed_s == 7.0
