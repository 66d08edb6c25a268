"""Trial runs: what they measure, and what happens when one is killed."""

import os
import signal
import tempfile

import pytest
import tiny

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.errors import RunError
from medmim.stages.plan.run import plan
from medmim.stages.plan.trial_run import TrialRun, first_steps, run_trial

SMALL, LARGE = TrialRun(2, 300.0, 350.0, 0.3, 6, 9), TrialRun(4, 500.0, 600.0, 0.5, 6, 9)


@pytest.mark.parametrize("kind", [PretrainSettings, FinetuneSettings])
def test_a_trial_run_measures_and_leaves_no_files(tiny_dataset, study, kind):
    before = sorted(study.home.rglob("*"))
    settings = kind(**{**tiny.TINY, "data": tiny_dataset, "minutes": 5.0})
    measured = first_steps(settings, 2, study.home)
    assert (measured.batch, measured.batches, measured.volumes) == (2, 6, 7)
    assert 100 < measured.peak_mb <= measured.whole_mb
    assert 0 < measured.batch_s < 60
    assert sorted(study.home.rglob("*")) == before


@pytest.mark.parametrize(
    ("kind", "words", "volumes"),
    [
        (FinetuneSettings, {"init": "scratch", "num_labelled": 3}, 3),
        (FinetuneSettings, {"init": "scratch", "fold": 0}, 7),
        (PretrainSettings, {"include_held_out": True}, 10),
    ],
)
def test_a_trial_run_counts_the_training_volumes(tiny_dataset, home, kind, words, volumes):
    settings = kind(**{**tiny.TINY, "data": tiny_dataset, **words})
    assert first_steps(settings, 2, home, batches=3).volumes == volumes


def killed(settings, batch, home, workers, batches, unmeasured, scratch):
    """Measure nothing: the system kills the process."""
    (scratch / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_trial_run_is_an_error_with_its_batch_size_and_a_remedy(
    tiny_dataset, home, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def second_is_killed(settings, *, batch, home):
        if batch == SMALL.batch:
            return SMALL
        return run_trial(settings, batch=batch, home=home, measure=killed)

    with pytest.raises(
        RunError, match=r"with 4 patches per batch was killed, .*memory.* smaller --size"
    ) as found:
        plan(PretrainSettings(data=tiny_dataset), home=home, trial=second_is_killed)
    assert "--batch-size, or --set activation_checkpointing=true" in str(found.value)
    assert not list(tmp_path.iterdir())
