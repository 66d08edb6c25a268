import shutil
from functools import partial

import pytest
import tiny
from click.testing import CliRunner
from interruption import PowerCutError, run_until_power_cut

from medmim.cli import main
from medmim.config.runs import FinetuneSettings
from medmim.errors import UsageError
from medmim.stages.compare import compare_runs
from medmim.stages.finetune.run import finetune
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.training_process import run_here
from medmim.stages.train_seeds import fine_tune_seeds, train_missing_seeds
from medmim.tracking.comparison.findings import find
from medmim.tracking.mlflow_store import Store


class Engine:
    """Runs jobs in this process and records their titles."""

    def __init__(self):
        self.ran = []

    def __call__(self, job, home):
        self.ran.append(job.title)
        return run_here(job, home)


def test_missing_seeds_are_pretrained_and_fine_tuned_once(study, tmp_path):
    home = shutil.copytree(study.home, tmp_path / "home")  # other tests share the home folder of the study
    words = {**tiny.TINY, "data": study.data, "num_evaluations": 2, "steps": 2, "init": "scratch"}
    plain = finetune(FinetuneSettings(**words, seed=1), home=home, log=str)
    named, lines, engine = [study.tuned.run_id, study.scratch.run_id], [], Engine()
    words = {"seeds": 2, "data": study.data, "home": home, "engine": LocalEngine(engine)}
    found = train_missing_seeds(named, log=lines.append, **words)
    assert lines[0].startswith("2 trials for 2 seeds of each arm, about ")
    arm = "spark mesh 0.7 decoder_width=8"
    assert plain.run_id in found
    assert engine.ran == [f"pretrain {arm} seed 1", f"finetune {arm} seed 1"]
    compared = compare_runs(found, home=home)
    assert [one.seeds for one in compared.findings.arms] == [(0, 1), (0, 1)]
    assert compared.findings.differences == ()
    engine.ran.clear()
    assert train_missing_seeds(named, log=lines.append, **words) == found
    assert engine.ran == []


def test_fine_tuning_of_seeds_keeps_finished_runs_and_resumes_interrupted_ones(study, tmp_path):
    home, engine = shutil.copytree(study.home, tmp_path / "home"), Engine()
    words = {**tiny.TINY, "data": study.data, "num_evaluations": 2, "steps": 2}
    settings = FinetuneSettings(**words, seed=7, checkpoint_every_steps=1)
    words = {"home": home, "engine": LocalEngine(engine), "log": str}
    interrupted = LocalEngine(partial(run_until_power_cut, after=1))
    with pytest.raises(PowerCutError, match="power cut"):
        fine_tune_seeds(settings, [5], **{**words, "engine": interrupted})
    runs = fine_tune_seeds(settings, [0, 5], **words)
    assert engine.ran == ["finetune segment seed 5"]
    assert [run.seed for run in runs] == [0, 5]
    assert runs[0].run_id == study.tuned.run_id
    assert len(Store(home).runs(seed="5")) == 1
    assert {run.tags["pretraining_run"] for run in runs} == {study.pretrained.run_id}
    findings = find(runs)
    assert findings.differences == ()
    assert [arm.seeds for arm in findings.arms] == [(0, 5)]
    assert any("start from the same weights" in warning for warning in findings.warnings)
    again = fine_tune_seeds(settings, [5, 0], **words)
    assert [run.run_id for run in again] == [runs[1].run_id, runs[0].run_id]
    assert len(engine.ran) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0,x"], "--seeds: expected numbers from 0, such as 0,1,2; got '0,x'"),
        (["--seeds", "0,-1"], "--seeds: expected numbers from 0"),
        (["--seeds", "0,1", "--seed", "2"], "--seeds: expected neither --seed nor --resume"),
    ],
)
def test_wrong_seeds_are_rejected(words, message, study):
    found = CliRunner().invoke(
        main, ["finetune", "segment", "--init", "scratch", "--data", str(study.data), *words]
    )
    assert found.exit_code == 2
    assert message in found.output


def test_another_dataset_is_rejected(study, tmp_path):
    other = tiny.make_dataset(tmp_path / "other", seed=9)
    with pytest.raises(UsageError, match="--data: expected the dataset of the compared runs"):
        train_missing_seeds([study.tuned.run_id], seeds=2, data=other, home=study.home, log=str)
