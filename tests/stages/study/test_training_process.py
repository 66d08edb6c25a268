"""Tests of `medmim/stages/study/training_process.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from medmim.stages.study.training_process import Job, Meter, run_apart, run_here
from medmim.tracking.mlflow_store import Store


def counter(folder, microjoule):
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoule}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")


def test_energy_is_read_from_the_counters(tmp_path):
    counter(tmp_path / "intel-rapl:0", 100)
    counter(tmp_path / "intel-rapl:1", 999_000_000)
    meter = Meter(tmp_path)
    counter(tmp_path / "intel-rapl:0", 100 + 3_600_000_000 // 4)
    counter(tmp_path / "intel-rapl:1", 1_000_000)  # the counter wrapped around
    assert abs(meter.costs()["cost/energy_wh"] - (0.25 + 2_000_000 / 3.6e9)) < 1e-9


def test_without_counters_energy_is_left_out(tmp_path):
    costs = Meter(tmp_path).costs()
    assert "cost/energy_wh" not in costs
    assert costs["cost/minutes"] >= 0
    assert 0.05 < costs["cost/peak_memory_gb"] < 500


def job(data, **words):
    settings = {**tiny.TINY, "data": str(data), "steps": 2, "num_evaluations": 1, "init": "scratch", **words}
    return Job("finetune", "a training", "d" * 64, settings, {"study": "s", "role": "cell"})


def test_a_child_process_returns_the_finished_run(tiny_dataset, new_home):
    home = new_home()
    outcome = run_apart(job(tiny_dataset), home)
    assert outcome.error == ""
    run = Store(home).run(outcome.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["job"] == "d" * 64
    assert run.data.metrics["cost/minutes"] > 0
    assert run.data.metrics["cost/peak_memory_gb"] > 0.05
    assert not list((home / "jobs").iterdir())


def test_an_error_of_the_child_is_returned(tmp_path, new_home):
    outcome = run_apart(job(tmp_path / "nowhere"), new_home())
    assert outcome.run_id is None
    assert "no dataset at" in outcome.error


def test_an_interrupted_run_is_resumed_and_one_without_a_state_is_discarded(tiny_dataset, new_home):
    from interruption import PowerCutError, run_until_power_cut

    home = new_home()
    store = Store(home)
    work = job(tiny_dataset, steps=3, checkpoint_every_steps=1)
    with pytest.raises(PowerCutError, match="power cut"):
        run_until_power_cut(work, home, after=2)
    (cut,) = store.runs(job="d" * 64)
    store.begin(experiment="medmim", name="nothing saved", tags={"job": "d" * 64, "stage": "finetune"})
    outcome = run_here(work, home)
    assert outcome.run_id == cut.info.run_id
    assert [run.info.run_id for run in store.runs(job="d" * 64)] == [cut.info.run_id]
    assert store.run(cut.info.run_id).data.metrics["last/steps"] == 3


def test_the_child_ends_with_its_parent(tiny_dataset, new_home, tmp_path):
    home = new_home()
    spec = tmp_path / "spec.json"
    words = {"stage": "finetune", "title": "t", "digest": "d", "tags": {}, "home": str(home)}
    words["settings"] = dict(job(tiny_dataset, steps=100_000).settings)
    spec.write_text(json.dumps(words))
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'medmim.stages.study.training_process', "
        f"{str(spec)!r}, "
        f"{str(tmp_path / 'answer.json')!r}], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(600):
        if not alive(child):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False
