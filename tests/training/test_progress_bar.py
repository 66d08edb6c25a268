import io

import pytest
from fake_trainer import Module, Trainer
from rich.console import Console

from medmim.tracking.recorder import MemoryRecorder
from medmim.training.budget import Budget
from medmim.training.callbacks import LossLogger
from medmim.training.progress_bar import ProgressBar, _clock


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
