"""`medmim study` killed with SIGKILL while it trains: the same command continues that very run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
import yaml

from medmim.tracking.mlflow_store import Store

SHARED = {**tiny.TINY, "size": [16], "num_evaluations": 1, "checkpoint_every_steps": 5}


@pytest.fixture
def config(tmp_path):
    """One mask and the control; thirty patients, of whom six test."""
    data = tiny.make_dataset(tmp_path / "data", patients=30, seed=5)
    pretrain = {**SHARED, "steps": 5, "method_options": {"decoder_width": 8}}
    words = {"name": "killed", "data": str(data), "masks": ["mesh"], "ratios": [0.7]}
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump({**words, "pretrain": pretrain, "finetune": {**SHARED, "steps": 300}}))
    return path


def begin(config, home):
    words = [sys.executable, "-m", "medmim", "study", str(config), "--json"]
    environment = {**os.environ, "MEDMIM_HOME": str(home)}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_for_state(store, study):
    """Wait until a second training has kept a state from which it can be continued; return its run."""
    while study.poll() is None:
        for run in store.runs(study="killed", role="pretraining"):
            for begun in store.runs(study="killed", role="cell"):
                if run.info.status == "FINISHED" and begun.info.status == "RUNNING" and states(store, begun):
                    return begun
        time.sleep(0.1)
    raise AssertionError(study.communicate())


def states(store, run):
    folder = store.checkpoints(run.info.run_id)
    return folder.is_dir() and any(folder.iterdir())


@pytest.mark.slow
def test_a_killed_study_is_continued(config, new_home):
    home = new_home()
    store, study = Store(home), begin(config, home)
    cut = wait_for_state(store, study)
    before = {run.info.run_id: run.info.end_time for run in store.runs(study="killed") if run.info.end_time}
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    again = begin(config, home)
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["plan"]["finished"] == len(before)
    assert result["failures"] == []
    trainings = [*store.runs(study="killed", role="cell"), *store.runs(study="killed", role="pretraining")]
    assert len(trainings) == 3
    assert len({run.data.tags["job"] for run in trainings}) == 3
    assert store.run(cut.info.run_id).info.status == "FINISHED"
    steps = [point.step for point in store.client.get_metric_history(cut.info.run_id, "train/loss")]
    assert steps == sorted(set(steps))
    for run_id, end in before.items():
        assert store.run(run_id).info.end_time == end
    once_more = begin(config, home)
    out, _ = once_more.communicate(timeout=600)
    assert json.loads(out.splitlines()[-1])["plan"]["finished"] == 3
