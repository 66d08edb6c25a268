"""The learning rate rises and falls with the progress of the budget, which also ends the training."""

import math
from functools import partial

import pytest
from fake_trainer import Module, Trainer

from medmim.config.runs import PretrainSettings
from medmim.training.budget import Budget
from medmim.training.schedule import Schedule, learning_rate_factor


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
