import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import tiny

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.data.dataset.manifest import Dataset, read_dataset
from medmim.errors import RunError
from medmim.stages.finetune.run import finetune
from medmim.stages.plan.run import free_memory_mb, plan, predict, refuse_too_large, second_batch
from medmim.stages.plan.trial_run import TrialRun, process_mb
from medmim.stages.pretrain.run import pretrain

SMALL, LARGE = TrialRun(2, 300.0, 350.0, 0.3, 6, 9), TrialRun(4, 500.0, 600.0, 0.5, 6, 9)


def predicted(dataset, *, free_mb=1e6, **words):
    settings = PretrainSettings(**{"data": dataset, "workers": 1, "steps": 3600, **words})
    return predict(settings, read_dataset(dataset), (SMALL, LARGE), free_mb=free_mb)


def test_memory_and_hours_lie_on_a_line(tiny_dataset):
    planned = predicted(tiny_dataset, batch_size=8, accumulate=2)
    assert planned.peak_mb == pytest.approx(900)
    assert planned.hours == pytest.approx(2 * 0.9)
    assert (planned.fits, planned.proposed_batch_size, planned.proposed_accumulate) == (True, 8, 2)


def test_an_epoch_draws_as_many_volumes_as_the_trial_run(tiny_dataset):
    planned = predicted(tiny_dataset, steps=None, epochs=800.0, batch_size=2)
    assert planned.hours == pytest.approx(800 * 9 / 2 * 0.3 / 3600)


def test_a_batch_that_fits_is_proposed(tiny_dataset):
    planned = predicted(tiny_dataset, batch_size=16, free_mb=700 / 0.85 + 1)
    assert (planned.fits, planned.proposed_batch_size, planned.proposed_accumulate) == (False, 6, 3)
    refuse_too_large(planned)


def test_a_run_that_fits_at_no_batch_size_is_refused(tiny_dataset):
    planned = predicted(tiny_dataset, free_mb=100.0)
    assert planned.proposed_batch_size is None
    with pytest.raises(RunError, match="more than the 100 MiB of free memory, even with one patch per batch"):
        refuse_too_large(planned)


def test_volumes_that_were_not_seen_are_added(tiny_dataset):
    few = (TrialRun(1, 300.0, 300.0, 0.1, 1, 7), TrialRun(2, 300.0, 300.0, 0.1, 1, 7))
    settings = PretrainSettings(data=tiny_dataset, workers=0, cache_disk_gb=0)
    volume, dataset = 20 * 16 * 16 * 5 / 2**20, read_dataset(tiny_dataset)
    assert predict(settings, dataset, few, free_mb=1e6).peak_mb == pytest.approx(300 + 6 * volume)
    mapped = PretrainSettings(data=tiny_dataset, workers=0)
    assert predict(mapped, dataset, few, free_mb=1e6).peak_mb == 300
    held_out = settings.model_copy(update={"include_held_out": True})
    assert predict(held_out, dataset, few, free_mb=1e6).peak_mb == pytest.approx(300 + 8 * volume)
    tests = [one.model_copy(update={"split": "test"}) for one in dataset.volumes]
    tested = Dataset(tiny_dataset, dataset.info, tuple(tests))
    assert predict(settings, tested, few, free_mb=1e6).peak_mb == pytest.approx(300 + 8 * volume)


def test_an_evaluation_may_need_more_than_small_batches(tiny_dataset):
    assert predicted(tiny_dataset, batch_size=4).peak_mb == 600
    assert predicted(tiny_dataset, batch_size=5).peak_mb == 600
    assert predicted(tiny_dataset, batch_size=6).peak_mb == 700


@pytest.mark.parametrize(
    ("wanted", "free_mb", "expected"),
    [(32, 1e6, 32), (5, 1e6, 5), (1, 1e6, 4), (32, 3500.0, 17), (32, 10.0, 4), (512, 1e6, 66)],
)
def test_the_second_trial_run_uses_the_batch_size_of_the_run_if_it_surely_fits(wanted, free_mb, expected):
    # ten seconds a step, 0.3 s for two patches
    assert second_batch(wanted, SMALL, free_mb=free_mb) == expected


def test_trial_runs_choose_the_patch_as_the_run_does(tiny_dataset, tmp_path):
    seen = []

    def trial(settings, *, batch, home):
        seen.append(settings)
        return SMALL if len(seen) == 1 else LARGE

    plan(PretrainSettings(data=tiny_dataset, dims=3), home=tmp_path, trial=trial)
    assert [one.size for one in seen] == [
        None,
        None,
    ]  # the recipe names the median image, which may be no multiple


def test_a_budget_in_minutes_takes_these_minutes(tiny_dataset):
    assert predicted(tiny_dataset, steps=None, minutes=90.0).hours == 1.5


def test_the_free_memory_is_plausible():
    assert 10 < free_memory_mb() < 1e8


def table(rows):
    """Return the table that `make test-slow` prints with -s."""
    lines = ["configuration                                   predicted MiB  measured MiB   error"]
    lines += [f"{name:<46}  {p:13.0f}  {m:12.0f}  {p / m - 1:+7.1%}" for name, p, m in rows]
    return "\n".join(lines)


SIX = [
    ("pretrain", {"dims": 3, "size": (32,), "batch_size": 8}),
    ("pretrain", {"dims": 3, "size": (48,), "batch_size": 12, "ratio": 0.5}),
    ("pretrain", {"dims": 2, "size": (128,), "batch_size": 16, "encoder": "resnet18"}),
    ("pretrain", {"dims": 3, "size": (32,), "batch_size": 16, "activation_checkpointing": True}),
    ("finetune", {"dims": 3, "size": (32,), "batch_size": 8}),
    ("finetune", {"dims": 2, "size": (128,), "batch_size": 16, "encoder": "resnet18"}),
]


def peak_of_a_run(settings):
    """Return the peak memory of a whole run in MiB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_it, settings).result()


def run_it(settings):
    with tempfile.TemporaryDirectory() as home:
        stage = pretrain if isinstance(settings, PretrainSettings) else finetune
        stage(settings, home=Path(home))
        return process_mb("VmHWM")


@pytest.mark.slow
def test_memory_is_predicted_within_15_percent_in_six_configurations(tmp_path, home):
    data = tiny.make_dataset(tmp_path / "data", patients=8)
    rows = []
    for stage, words in SIX:
        kind = PretrainSettings if stage == "pretrain" else FinetuneSettings
        more = {} if stage == "pretrain" else {"init": "scratch"}
        settings = kind(**{"data": data, "workers": 0, "precision": "fp32", "steps": 8, **words, **more})
        predicted_mb = plan(settings, home=home).peak_mb
        measured_mb = peak_of_a_run(settings)
        rows.append((f"{stage} {words}", predicted_mb, measured_mb))
    sys.stdout.write(f"\n{table(rows)}\n")
    assert all(abs(p / m - 1) <= 0.15 for _, p, m in rows), table(rows)
