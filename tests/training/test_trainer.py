import errno
import hashlib
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from small_training import StopHereError, equal

from medmim.config.runs import FinetuneSettings
from medmim.errors import RunError, Stopped
from medmim.training.budget import Budget
from medmim.training.resume.checkpoint_files import encode_state, read_state, verified_state
from medmim.training.trainer import workers_for

VOLUMES = 10  # volumes in the dataset


def test_training_takes_the_given_steps_and_logs_metrics(training):
    made = training()
    fitted, weights = made.run()
    assert fitted.steps == 6
    assert fitted.seconds > 0
    assert math.isfinite(fitted.loss)
    assert not equal(weights, made.module().state_dict())
    assert [step for step, values in made.log.history if "val/sum" in values] == [2, 4, 6]
    assert [step for step, values in made.log.history if "train/loss" in values] == [1, 6]


def test_the_same_seed_gives_the_same_weights(training):
    assert equal(training("a").run()[1], training("b").run()[1])


def test_workers_do_not_change_the_weights(training):
    assert equal(training("a").run()[1], training("b", workers=2).run()[1])


@pytest.mark.parametrize(("words", "stop_at"), [({}, 4), ({}, 6), ({"checkpoint_every_steps": 1}, 4)])
def test_a_resumed_training_equals_an_uninterrupted_one(training, words, stop_at):
    whole = training("whole", **words)
    expected, weights = whole.run(best="val/sum")
    broken = training("broken", **words)
    with pytest.raises(StopHereError, match="power cut"):
        broken.run(stop_at=stop_at, best="val/sum")
    fitted, resumed = broken.run(resume=True, best="val/sum")
    assert equal(resumed, weights)
    assert fitted.steps == 6
    assert fitted.loss == expected.loss
    assert fitted.validation.last == expected.validation.last
    assert fitted.validation.best_value == expected.validation.best_value
    assert equal(fitted.validation.best_weights, expected.validation.best_weights)
    losses = [
        {step: values["train/loss"] for step, values in study.log.history if "train/loss" in values}
        for study in (whole, broken)
    ]
    assert losses[0] == losses[1]


def test_a_full_disk_does_not_end_the_training(training, monkeypatch, caplog):
    _, weights = training("whole").run()
    made, replace = training("full", checkpoint_every_steps=1), Path.replace

    def fill(temporary, place):
        if "000003" in place.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(temporary, place)

    monkeypatch.setattr(Path, "replace", fill)
    assert equal(made.run()[1], weights)
    assert "is not saved: cannot write: No space left on device; free the disk, or choose" in caplog.text
    assert read_state(verified_state(made.folder))["global_step"] == 2


def test_a_state_without_its_step_is_rejected(training):
    made = training()
    with pytest.raises(StopHereError, match="power cut"):
        made.run(stop_at=4)
    path = verified_state(made.folder)
    state = read_state(path)
    del state["global_step"]
    content = encode_state(state)
    path.write_bytes(content)
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(RunError, match=r"lacks its step: start the run again without --resume"):
        made.run(resume=True)


def test_a_folder_with_the_name_of_a_state_is_ignored(training):
    made = training(checkpoint_every_steps=1)
    with pytest.raises(StopHereError, match="power cut"):
        made.run(stop_at=4)
    (made.folder / "state-000099.safetensors").mkdir()
    assert read_state(verified_state(made.folder))["global_step"] == 3
    assert made.run(resume=True)[0].steps == 6


@pytest.mark.parametrize(
    ("budget", "steps"), [({"steps": 6}, 6), ({"steps": None, "epochs": 24 / VOLUMES}, 10)]
)
def test_training_resumes_with_the_next_patches_whatever_the_batch_size(training, budget, steps):
    """Train with four patches per step, then resume with two, as on half as many devices."""
    words = {"checkpoint_every_steps": 1, **budget}
    first, second = training(batch_size=4, **words), training(batch_size=2, **words)
    taken = []

    def watched(module, stop=None):
        compute = module.training_step

        def training_step(batch, batch_idx):
            if module.global_step == stop:
                raise StopHereError("power cut")
            taken.append(batch["draw"].tolist())
            return compute(batch, batch_idx)

        module.training_step = training_step
        return module

    with pytest.raises(StopHereError, match="power cut"):
        first.run(module=watched(first.module(), stop=2))
    fitted, _ = second.run(module=watched(second.module()), resume=True)
    assert taken[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert taken[2:] == [[number, number + 1] for number in range(8, 8 + 2 * (steps - 2), 2)]
    assert fitted.steps == steps
    assert fitted.validation.done == 3


@pytest.mark.parametrize(("step", "waits"), [(4, False), (6, True)])
def test_a_signal_stops_before_an_evaluation_except_the_last(training, step, waits):
    whole, broken = training("whole"), training("broken")
    expected, weights = whole.run(best="val/sum")
    module = broken.module()
    compute = module.training_step

    def training_step(batch, batch_idx):
        if module.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(batch, batch_idx)

    module.training_step = training_step
    with pytest.raises(Stopped, match="--resume"):
        broken.run(module=module, stop_at=None if waits else step, best="val/sum")
    saved = read_state(verified_state(broken.folder))
    assert saved["global_step"] == step
    assert (saved["callbacks"]["Evaluations"]["last"] == expected.validation.last) == waits
    fitted, resumed = broken.run(resume=True, best="val/sum")
    assert equal(resumed, weights)
    assert fitted.validation.last == expected.validation.last
    assert equal(fitted.validation.best_weights, expected.validation.best_weights)
    judged = [[one for one in study.log.history if "val/sum" in one[1]] for study in (whole, broken)]
    assert judged[0] == judged[1]


def test_a_completed_training_can_be_resumed(training):
    made = training()
    expected, weights = made.run(best="val/sum")
    fitted, again = made.run(resume=True, best="val/sum")
    assert equal(again, weights)
    assert (fitted.steps, fitted.loss) == (6, expected.loss)
    assert fitted.validation.last == expected.validation.last
    assert equal(fitted.validation.best_weights, expected.validation.best_weights)


def test_a_state_is_saved_at_each_evaluation(training):
    made = training()
    made.run()
    assert read_state(verified_state(made.folder))["global_step"] == 6
    names = [f"state-00000{n}.safetensors{end}" for n in (2, 3) for end in ("", ".sha256")]
    assert sorted(path.name for path in made.folder.iterdir()) == names


def test_a_non_finite_loss_ends_the_training(training):
    made = training()
    module = made.module()
    torch.nn.init.constant_(module.network.score.weight, float("nan"))
    with pytest.raises(
        RunError, match=r"^step 1: the loss is not finite, first in layer 'network\.score', with volumes "
    ):
        made.run(module=module)


def test_training_ends_after_its_minutes(training):
    made = training(minutes=1.0, steps=None)
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    fitted, _ = made.run(budget=Budget(minutes=1.0, clock=clock))
    assert 1 <= fitted.steps < 60
    assert len([step for step, values in made.log.history if "val/sum" in values]) == 3


def test_ctrl_c_raises_keyboard_interrupt(training):
    made = training()
    module = made.module()
    steps = module.training_step

    def interrupted(batch, batch_idx):
        if module.global_step == 3:
            raise KeyboardInterrupt
        return steps(batch, batch_idx)

    module.training_step = interrupted
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        made.run(module=module)
    assert equal(made.run(resume=True)[1], training("whole").run()[1])


def test_the_number_of_loader_workers_is_that_of_the_settings_or_of_the_machine():
    assert workers_for(FinetuneSettings(workers=3)) == 3
    assert workers_for(FinetuneSettings()) == 0  # tests run with one thread
