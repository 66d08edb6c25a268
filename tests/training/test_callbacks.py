"""Tests of `medmim/training/callbacks.py`."""

import io

import pytest
import torch
from fake_trainer import Module, OneProcess, Trainer
from rich.console import Console
from torch import nn

from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.training.budget import Budget
from medmim.training.callbacks import LOG_EVERY_STEPS, LossLogger, ProgressBar, ValidationCallback, _clock


def run(callback, losses, *, start=0):
    """Call a callback for a series of steps."""
    trainer, module = Trainer(start), Module()
    for number, loss in enumerate(losses):
        trainer.global_step = start + number + 1
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)}, None, number)
    return trainer, module


def test_losses_are_logged_as_means():
    log = MemoryRecorder()
    losses = LossLogger(log)
    trainer, module = run(losses, [float(n) for n in range(1, 14)])
    losses.on_train_end(trainer, module)
    assert [step for step, _ in log.history] == [1, 1 + LOG_EVERY_STEPS, 13]
    assert [values["train/loss"] for _, values in log.history] == [1.0, 6.5, 12.5]
    assert log.history[0][1]["train/lr"] == 0.5


def test_losses_are_averaged_over_processes_on_the_device_of_the_strategy(monkeypatch):
    class GpuProcess(OneProcess):
        """Reduces tensors on the GPU only, like nccl."""

        root_device = torch.device("meta")

        def reduce(self, tensor, *words, **more):
            assert tensor.device == self.root_device
            return 2.0

    monkeypatch.setattr(Trainer, "strategy", GpuProcess())
    log = MemoryRecorder()
    run(LossLogger(log), [1.0])
    assert log.history[0][1]["train/loss"] == 2.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resumed_losses_are_averaged_with_losses_on_the_gpu():
    losses = LossLogger(MemoryRecorder())
    losses.load_state_dict({"waiting": [torch.tensor(1.0)], "recent": 1.0})
    trainer, module = Trainer(2), Module()
    losses.on_train_batch_end(trainer, module, {"loss": torch.tensor(3.0, device="cuda")}, None, 1)
    assert losses.last == 2.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_left_out_of_the_mean(bad):
    log = MemoryRecorder()
    losses = LossLogger(log)
    run(losses, [1.0] * 7 + [bad] + [1.0] * 5)
    assert [values["train/loss"] for _, values in log.history] == [1.0, 1.0]
    run(losses, [bad] * 10, start=20)
    assert losses.recent == 1.0


def test_losses_not_yet_logged_survive_a_resume():
    log = MemoryRecorder()
    first = LossLogger(log)
    run(first, [1.0, 2.0, 3.0])
    second = LossLogger(log)
    second.load_state_dict(first.state_dict())
    run(second, [4.0] * 8, start=3)
    step, values = log.history[-1]
    assert step == 11
    assert values["train/loss"] == pytest.approx((2 + 3 + 8 * 4) / 10)


def evaluations(values, *, times=3, steps=9, best="val/dice"):
    """Return a callback whose evaluations give the listed values, and its log."""
    values = iter(values)
    log = MemoryRecorder()
    made = ValidationCallback(
        lambda step: {"val/dice": next(values)}, times=times, budget=Budget(steps=steps), log=log, best=best
    )
    return made, log


def test_evaluations_are_evenly_spaced():
    made, log = evaluations([0.1, 0.2, 0.3])
    run(made, [0.0] * 9)
    assert log.history == [(3, {"val/dice": 0.1}), (6, {"val/dice": 0.2}), (9, {"val/dice": 0.3})]


def test_there_is_at_most_one_evaluation_per_step():
    made, log = evaluations([0.1, 0.2], times=10, steps=2)
    run(made, [0.0] * 2)
    assert [step for step, _ in log.history] == [1, 2]


def test_the_best_weights_are_kept():
    made, _ = evaluations([0.2, 0.7, 0.5])
    trainer, module = Trainer(), Module()
    for step in range(1, 10):
        trainer.global_step = step
        nn.init.constant_(module.layer.weight, step)
        made.on_train_batch_end(trainer, module, {}, None, step)
    assert made.best_value == 0.7
    assert made.best_weights["layer.weight"].item() == 6
    assert made.last == {"val/dice": 0.5}


def test_an_equal_score_does_not_replace_the_earlier_one():
    made, _ = evaluations([0.7, 0.7, 0.7])
    run(made, [0.0] * 3)
    first = made.best_weights
    run(made, [0.0] * 6, start=3)
    assert made.best_weights is first


@pytest.mark.parametrize(("best", "value"), [(None, 0.5), ("val/dice", float("nan")), ("val/other", 0.5)])
def test_no_weights_are_kept_without_a_finite_score_to_choose_by(best, value):
    made, _ = evaluations([value] * 3, best=best)
    run(made, [0.0] * 9)
    assert made.best_weights == {}


def test_evaluation_restores_the_training_mode():
    modes = []
    module = Module()
    made = ValidationCallback(
        lambda step: modes.append((module.training, torch.is_grad_enabled())) or {},
        times=1,
        budget=Budget(steps=1),
        log=MemoryRecorder(),
        best=None,
    )
    module.train()
    made.on_train_batch_end(Trainer(1), module, {}, None, 0)
    assert modes == [(False, False)]
    assert module.training
    assert module.drop.training


def test_the_best_weights_survive_a_resume():
    first, _ = evaluations([0.9])
    run(first, [0.0] * 3)
    second, log = evaluations([0.4, 0.5])
    second.load_state_dict(first.state_dict())
    assert second.last == {"val/dice": 0.9}
    run(second, [0.0] * 6, start=3)
    assert [step for step, _ in log.history] == [6, 9]
    assert second.best_value == 0.9


def test_training_stops_after_as_many_evaluations_without_a_better_score_as_patience():
    """The third evaluation is the second without a better score than the first."""
    made, _ = evaluations([0.5, 0.4, 0.5], times=9)
    made.patience = 2
    trainer, module = Trainer(), Module()
    stopped = []
    for step in range(1, 4):
        trainer.global_step, trainer.should_stop = step, False
        made.on_train_batch_end(trainer, module, {}, None, step)
        stopped.append(trainer.should_stop)
    assert stopped == [False, False, True]
    resumed, _ = evaluations([])
    resumed.load_state_dict(made.state_dict())
    assert resumed.best_at == 1


def follow(*, terminal, steps=20):
    stream, losses = io.StringIO(), LossLogger(MemoryRecorder())
    losses.recent = 0.25
    budget = Budget(steps=steps)
    console = Console(file=stream, force_terminal=terminal, width=120)
    bar, trainer = ProgressBar("pretrain", budget, losses, console=console), Trainer()
    budget.start()
    bar.on_train_start(trainer, Module())
    for step in range(1, steps + 1):
        trainer.global_step = step
        bar.on_train_batch_end(trainer, Module(), {}, None, step)
    bar.on_train_end(trainer, Module())
    return stream.getvalue()


def test_without_a_terminal_a_line_is_printed_for_every_tenth_of_the_training():
    lines = follow(terminal=False).splitlines()
    assert [line.split()[1] for line in lines] == [f"{tenth}0%" for tenth in range(1, 11)]
    assert "step 20  loss 0.250" in lines[-1]
    assert lines[-1].endswith("0:00 left")


def test_few_steps_print_few_lines():
    assert len(follow(terminal=False, steps=2).splitlines()) == 2


def test_on_a_terminal_one_line_is_updated():
    written = follow(terminal=True)
    assert "100%" in written
    assert "pretrain" in written


def test_an_error_restores_the_terminal():
    console = Console(file=io.StringIO(), force_terminal=True)
    bar = ProgressBar("x", Budget(steps=2), LossLogger(MemoryRecorder()), console=console)
    bar.on_train_start(Trainer(), Module())
    bar.on_exception(Trainer(), Module(), RuntimeError())
    assert bar.bar.finished or not bar.bar.live.is_started


@pytest.mark.parametrize(("seconds", "text"), [(5.0, "0:05"), (65.0, "1:05"), (3700.0, "1:01:40")])
def test_time_left_is_readable(seconds, text):
    assert _clock(seconds) == text
