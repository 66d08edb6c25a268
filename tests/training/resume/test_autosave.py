import os
import signal
from pathlib import Path

import pytest
from fake_trainer import Module, Trainer

from medmim.errors import RunError, Stopped
from medmim.tracking.recorder import MemoryRecorder
from medmim.training.budget import Budget
from medmim.training.callbacks import ValidationCallback
from medmim.training.resume import autosave
from medmim.training.resume.autosave import Checkpoints, Signals


class Saving:
    """Checkpoints over steps of a minute each; `saved` are the steps at which they saved."""

    def __init__(self, monkeypatch, *, accumulate=1, **words):
        self.now, self.saved, self.trainer = 0.0, [], Trainer()
        self.trainer.accumulate_grad_batches = accumulate
        self.kept = True  # whether the disk takes what is saved

        def save(trainer, folder):
            self.saved.append(trainer.global_step)
            return self.kept

        monkeypatch.setattr(autosave, "save_state", save)
        log = MemoryRecorder()
        self.evaluations = ValidationCallback(
            lambda step: {}, times=2, budget=Budget(steps=10), log=log, best=None
        )
        self.signals = Signals()
        words = {"every_steps": None, "every_minutes": 1e9, **words}
        self.checkpoints = Checkpoints(
            Path(),
            evaluations=self.evaluations,
            signals=self.signals,
            log=log,
            clock=lambda: self.now,
            **words,
        )
        self.checkpoints.on_train_start(self.trainer, Module())

    def batch(self, number):
        self.now += 60.0
        self.trainer.global_step = (number + 1) // self.trainer.accumulate_grad_batches
        self.evaluations.on_train_batch_end(self.trainer, Module(), {}, None, number)
        self.checkpoints.on_train_batch_end(self.trainer, Module(), {}, None, number)

    def batches(self, count):
        for number in range(count):
            self.batch(number)
        return self.saved


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        ({}, [5, 10]),
        ({"every_steps": 3}, [3, 6, 9]),
        ({"every_minutes": 4.0}, [4, 5, 9, 10]),
        ({"every_steps": 4, "every_minutes": 3.0}, [3, 4, 7, 8]),
        ({"every_steps": 1, "accumulate": 4}, [1, 2]),
    ],
)
def test_states_are_saved_after_steps_minutes_and_evaluations(monkeypatch, words, steps):
    assert Saving(monkeypatch, **words).batches(10) == steps


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_when_the_step_is_complete(monkeypatch, number, code):
    made = Saving(monkeypatch, accumulate=2)
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        made.batch(0)
        os.kill(os.getpid(), number)
        made.batch(2)  # the first half of a step
        assert not made.saved
        with pytest.raises(Stopped, match="--resume") as stopped:
            made.batch(3)
    assert made.saved == [2]
    assert stopped.value.exit_code == code


def test_the_same_signal_again_stops_at_once(monkeypatch):
    made = Saving(monkeypatch)
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    assert not made.saved


def test_two_kinds_of_signals_are_no_hurry(monkeypatch):
    made = Saving(monkeypatch)  # such as Ctrl-C in a study, which then ends its training with SIGTERM
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            made.batches(3)
    assert len(made.saved) == 1
    assert stopped.value.exit_code == 143


def test_sigusr1_saves_and_goes_on(monkeypatch):
    made = Saving(monkeypatch)
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGUSR1)
        assert made.batches(3) == [1]


def test_a_stop_that_cannot_be_saved_says_so(monkeypatch):
    made = Saving(monkeypatch)
    made.kept = False
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(
            RunError, match="could not be saved: free the disk; --resume goes on from the state"
        ):
            made.batches(3)


def test_a_stop_that_comes_during_a_save_is_not_forgotten(monkeypatch):
    made = Saving(monkeypatch)

    def save(trainer, folder):
        made.saved.append(trainer.global_step)
        if len(made.saved) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(autosave, "save_state", save)
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped):
            made.batches(3)
    assert made.saved == [1, 2]


def test_a_wish_to_save_takes_no_stop_back(monkeypatch):
    made = Saving(monkeypatch)
    with made.signals.given_back():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped) as stopped:
            made.batches(3)
    assert made.saved == [1]
    assert stopped.value.exit_code == 143


def test_signals_are_given_back():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before, signals = [signal.getsignal(number) for number in numbers], Signals()
    with signals.given_back():
        signals.on_train_start(Trainer(), Module())
        assert signal.getsignal(signal.SIGTERM) == signals.note
    assert before == [signal.getsignal(number) for number in numbers]
