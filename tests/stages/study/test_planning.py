"""The duration of a training is predicted from a short one that is bounded, remembered and cleaned up."""

import os
import signal

import pytest
import tiny

from medmim.config.study import StudySettings, trials_of
from medmim.data.dataset.manifest import read_dataset
from medmim.errors import RunError, Stopped
from medmim.stages.plan.trial_run import ended_by_signals
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.planning import timed_minutes, trainings_of
from medmim.stages.study.training_process import Outcome


def slow(job, home):
    """A job that the time limit ends before its first step is logged."""
    return Outcome(None, "its process ended with signal 9")


@pytest.fixture
def training(tiny_dataset):
    stage = {**tiny.TINY, "steps": 600}
    study = StudySettings(data=tiny_dataset, scratch=False, pretrain=stage, finetune=stage)
    return trainings_of(trials_of(study), dataset_hash="x", study="s")[0]


def test_a_slow_training_is_estimated_from_its_first_steps_and_remembered(training, tiny_dataset, new_home):
    words = {"dataset": read_dataset(tiny_dataset), "near": new_home() / "studies"}
    words["near"].mkdir()
    lines = []
    minutes = timed_minutes(training, engine=LocalEngine(slow), limit_s=0.0, log=lines.append, **words)
    assert minutes > 0
    assert lines == ["timing     pretrain spark mesh 0.7 seed 0: 21 steps, at most 0 s"]
    assert timed_minutes(training, engine=LocalEngine(slow), log=lines.append, **words) == minutes
    assert len(lines) == 1
    assert [path.name for path in words["near"].iterdir()] == ["timings.json"]


def test_a_short_training_that_fails_is_reported(training, tiny_dataset, new_home):
    near = new_home() / "studies"
    near.mkdir()
    with pytest.raises(RunError, match="timed for the plan: its process ended with signal 9"):
        timed_minutes(training, dataset=read_dataset(tiny_dataset), engine=LocalEngine(slow), near=near)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_timing_by_an_exception(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"{number.name}; .*repeat the command") as stopped, ended_by_signals():
        os.kill(os.getpid(), number)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_pretraining_of_a_study_keeps_its_initial_weights(tiny_dataset):
    stage = {**tiny.TINY, "steps": 6}
    arms = [{"init": "abc"}, {"init": "def"}]
    study = StudySettings(data=tiny_dataset, methods=[], arms=arms, pretrain=stage, finetune=stage)
    trainings = trainings_of(trials_of(study), dataset_hash="x", study="s")
    given = [one.job.settings.get("init") for one in trainings if one.job.stage == "pretrain"]
    assert given == ["abc", "def"]
