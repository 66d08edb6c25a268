import os
import signal
from pathlib import Path

import pytest
from fake_trainer import Module, Trainer

from medmim.errors import RunError, Stopped
from medmim.tracking.recorder_interface import MemoryRecorder
from medmim.training.budget import Budget
from medmim.training.callbacks import ValidationCallback
from medmim.training.resume.checkpoint_times import Checkpoints, Signals


class Saving:
    """Checkpoints over steps of one minute; `saved` lists the steps at which a state was saved."""

    def __init__(self, *, accumulate=1, on_save=lambda: None, **words):
        self.now, self.saved, self.trainer = 0.0, [], Trainer()
        self.trainer.accumulate_grad_batches = accumulate
        self.disk_has_space = True

        def save(trainer, folder):
            self.saved.append(trainer.global_step)
            on_save()
            return self.disk_has_space

        log = MemoryRecorder()
        self.evaluations = ValidationCallback(
            lambda step: {}, times=2, budget=Budget(steps=10), log=log, best=None
        )
        words = {"every_steps": None, "every_minutes": 1e9, **words}
        self.checkpoints = Checkpoints(
            Path(),
            evaluations=self.evaluations,
            log=log,
            clock=lambda: self.now,
            save=save,
            **words,
        )
        self.signals = self.checkpoints.signals
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
def test_states_are_saved_after_steps_minutes_and_evaluations(words, steps):
    assert Saving(**words).batches(10) == steps


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_when_the_step_is_complete(number, code):
    made = Saving(accumulate=2)
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        made.batch(0)
        os.kill(os.getpid(), number)
        made.batch(2)  # the first half of a step
        assert not made.saved
        with pytest.raises(Stopped, match="--resume") as stopped:
            made.batch(3)
    assert made.saved == [2]
    assert stopped.value.exit_code == code


def test_the_same_signal_twice_stops_at_once():
    made = Saving()
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="--resume"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert not made.saved


def test_two_different_stop_signals_still_wait_for_the_end_of_the_step():
    made = Saving()  # for example Ctrl-C in a study, which then stops its training with SIGTERM
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="--resume") as stopped:
            made.batches(3)
    assert len(made.saved) == 1
    assert stopped.value.exit_code == 143


def test_sigusr1_saves_a_state_and_training_continues():
    made = Saving()
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGUSR1)
        assert made.batches(3) == [1]


def test_a_stop_whose_state_cannot_be_saved_is_an_error():
    made = Saving()
    made.disk_has_space = False
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(
            RunError, match="could not be saved: free some disk space; --resume continues from the prev"
        ):
            made.batches(3)


def test_a_stop_signal_during_a_save_stops_at_the_next_step():
    def stop_during_the_first_save():
        if len(made.saved) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    made = Saving(on_save=stop_during_the_first_save)
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped, match="--resume"):
            made.batches(3)
    assert made.saved == [1, 2]


def test_a_save_signal_does_not_cancel_a_stop_signal():
    made = Saving()
    with made.signals.restored_afterwards():
        made.signals.on_train_start(made.trainer, Module())
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Stopped, match="--resume") as stopped:
            made.batches(3)
    assert made.saved == [1]
    assert stopped.value.exit_code == 143


def test_signal_handlers_are_restored():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before, signals = [signal.getsignal(number) for number in numbers], Signals()
    with signals.restored_afterwards():
        signals.on_train_start(Trainer(), Module())
        assert signal.getsignal(signal.SIGTERM) == signals.handle
    assert before == [signal.getsignal(number) for number in numbers]
