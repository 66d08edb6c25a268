"""Two processes that share each step give the weights of one that takes the whole step."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_guard import volumes_of

from medmim.data.draws import Draws, Part, batches, pretraining_patches
from medmim.data.plan import Plan
from medmim.data.prepare import Prepared
from medmim.tracking.store import Store

WORDS = [
    "--steps",
    "3",
    "--set",
    "evaluations=1",
    "--set",
    "method_options={decoder_width: 8}",
    "--lr",
    "0.01",
]


def medmim(home, *words):
    environment = {**os.environ, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "medmim", *map(str, words), "--json"]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def close(first, second, **tolerance):
    first, second = load_file(first["checkpoint"]), load_file(second["checkpoint"])
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], **tolerance) for name in first
    )


@pytest.mark.slow
def test_two_processes_are_one_and_go_on_as_one(tiny_dataset, new_home):
    home = new_home()
    common = ["pretrain", "--data", tiny_dataset, *tiny.TINY_WORDS, *WORDS]
    alone = medmim(home, *common, "--batch-size", 4)
    shared = medmim(home, *common, "--batch-size", 2, "--devices", 2)
    assert close(alone, shared, rtol=1e-3, atol=1e-4)
    assert shared["metrics"]["last/train_loss"] == pytest.approx(
        alone["metrics"]["last/train_loss"], rel=1e-4
    )
    runs = Store(home).runs(stage="pretrain")
    assert len(runs) == 2  # the second process records nothing
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.slow
def test_two_processes_go_back_to_the_same_state(tiny_dataset, tmp_path):
    """The second meets the NaN, and has a folder of its own without states, as in a run."""
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, [here.parents[1], here.parent, here]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(here / "two_processes.py"), str(tiny_dataset), str(tmp_path)]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert ran.returncode == 0, ran.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # step 4 takes draws 12 to 15; those of the second process are 14 and 15, and the last is bad
    bad = volumes_of(SimpleNamespace(dataset=tiny_dataset), 7)[1]
    found = f"first in layer 'network.encoder.stages.0.conv1.conv', with volumes {bad} in the batch"
    assert f"{found}; went back to the last saved state, 1 so far" in ran.stderr
    assert ran.stderr.count("so far") == 1


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_take_batches_in_turn(processes):
    ready = Prepared(torch.ones(1, 8, 8, 8), None, torch.eye(4).double().numpy(), 2)
    patches = pretraining_patches(Plan(3, (8, 8, 8)))
    draws = Draws([tiny.row()], lambda volume: ready, patches, labelled=False, seed=0)
    words = {"batch_size": 2, "workers": 0}
    shares = [
        [
            batch["draw"].tolist()
            for batch in batches(draws, Part(24, start=12), **words, share=(number, processes))
        ]
        for number in range(processes)
    ]
    taken = [batch for step in zip(*shares, strict=True) for batch in step]
    assert taken == [[number, number + 1] for number in range(12, 24, 2)]
