import shutil

import pytest
import tiny

from medmim.errors import UsageError
from medmim.stages.compare import compare_runs
from medmim.stages.missing_seeds import train_missing_seeds
from medmim.stages.study.engines import LocalEngine
from medmim.stages.study.training_process import run_here


class Engine:
    """Runs jobs in this process and records their titles."""

    def __init__(self):
        self.ran = []

    def __call__(self, job, home):
        self.ran.append(job.title)
        return run_here(job, home)


def test_missing_seeds_are_pretrained_and_fine_tuned_once(study, tmp_path):
    home = shutil.copytree(study.home, tmp_path / "home")  # other tests share the home folder of the study
    named, lines, engine = [study.tuned.run_id, study.scratch.run_id], [], Engine()
    words = {"seeds": 2, "data": study.data, "home": home, "engine": LocalEngine(engine)}
    found = train_missing_seeds(named, log=lines.append, **words)
    assert lines[0].startswith("2 trials for 2 seeds of each arm, about ")
    arm = "spark mesh 0.7 decoder_width=8"
    assert engine.ran == ["finetune scratch seed 1", f"pretrain {arm} seed 1", f"finetune {arm} seed 1"]
    compared = compare_runs(found, home=home)
    assert [one.seeds for one in compared.findings.arms] == [(0, 1), (0, 1)]
    assert compared.findings.differences == ()
    engine.ran.clear()
    assert train_missing_seeds(named, log=lines.append, **words) == found
    assert engine.ran == []


def test_another_dataset_is_rejected(study, tmp_path):
    other = tiny.make_dataset(tmp_path / "other", seed=9)
    with pytest.raises(UsageError, match="--data: expected the dataset of the compared runs"):
        train_missing_seeds([study.tuned.run_id], seeds=2, data=other, home=study.home, log=str)
