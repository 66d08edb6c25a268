"""Two processes that share each step give the same weights as one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from planted_faults import volumes_of
from safetensors.torch import load_file

from medmim.data.loading.patches import PatchDataset, SampleRange, batches, pretraining_patches
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import StepPlan
from medmim.training.resume.checkpoint_files import read_state, verified_state

# SGD, because Adam amplifies gradients that consist of rounding errors, such as those of key biases
COMMON = ["--steps", "3", "--set", "num_evaluations=1", "--lr", "0.1", "--set", "optimizer=sgd"]
SPARK = ["pretrain", *tiny.TINY_WORDS, *COMMON, "--set", "method_options={decoder_width: 8}"]
VIT = ["--size", "16", "--encoder", "vit", "--workers", "0", "--precision", "fp32"]
VIT += ["--set", "encoder_options={width: 24, depth: 2, heads: 2, patch: 4}"]
LATENT = ["pretrain", *VIT, *COMMON, "--method", "latent_mim"]
# each accumulated batch has its own constraint
LATENT += ["--set", "method_options={objective: mse, similarity: 0}"]
CONTRASTIVE = ["pretrain", *tiny.TINY_WORDS, *COMMON, "--method", "contrastive"]
CONTRASTIVE += ["--set", "method_options={teacher: shared}"]
CLASSIFY = ["finetune", "classify", *tiny.TINY_WORDS, *COMMON, "--init", "scratch"]
CLASSIFY += ["--set", "task_options={dropout: 0}"]  # dropout differs between processes
SEGMENT = ["finetune", "segment", *tiny.TINY_WORDS, *COMMON, "--init", "scratch"]


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
@pytest.mark.parametrize(
    ("words", "shared"),
    [
        pytest.param(SPARK, ["--batch-size", 2], id="SparK, packed batch norm"),
        pytest.param(
            LATENT, ["--batch-size", 1, "--set", "accumulate=2"], id="a teacher, two batches a step"
        ),
        pytest.param(CONTRASTIVE, ["--batch-size", 2], id="negatives of all processes"),
        pytest.param(CLASSIFY, ["--batch-size", 2], id="fine-tuning"),
        pytest.param(SEGMENT, ["--batch-size", 2], id="Dice of all processes"),
    ],
)
def test_two_processes_give_the_weights_of_one(tiny_dataset, new_home, words, shared):
    home = new_home()
    first = medmim(home, *words, "--data", tiny_dataset, "--batch-size", 4)
    second = medmim(home, *words, "--data", tiny_dataset, *shared, "--devices", 2)
    assert close(first, second, rtol=1e-3, atol=1e-4)
    runs = Store(home).runs(stage=words[0])
    assert len(runs) == 2  # only the first process records a run
    assert {run.info.status for run in runs} == {"FINISHED"}
    losses = [run.data.metrics["train/loss"] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_training_stopped_on_two_processes_resumes_on_one(tiny_dataset, new_home):
    home = new_home()
    words = [*SPARK, "--data", tiny_dataset, "--batch-size", 2, "--devices", 2, "--steps", 400]
    words += ["--set", "checkpoint_every_steps=2", "--set", "num_evaluations=2"]
    environment = {**os.environ, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "medmim", *map(str, words)]
    with subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 120
        while not (saved := list(home.glob("checkpoints/*/state-*.safetensors"))):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        running.wait(120)
    assert running.returncode == 128 + signal.SIGTERM
    state = read_state(verified_state(saved[0].parent))
    done, pace = state["global_step"], state["callbacks"]["Schedule"]["pace"]
    assert 0 < done < 400
    assert StepPlan(**pace).drawn_at(done) == 4 * done
    ended = medmim(home, "pretrain", "--data", tiny_dataset, "--resume", "--devices", 1)
    assert ended["metrics"]["last/steps"] == 400
    (run,) = Store(home).runs(stage="pretrain")
    assert run.data.tags["processes"] == "2, then 1"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_both_processes_return_to_the_same_state_after_a_nan(tiny_dataset, tmp_path):
    """The NaN occurs in the second process, whose own folder contains no states, as in a real run."""
    here = Path(__file__).parents[1] / "helpers"
    paths = os.pathsep.join(map(str, [here.parents[1], here.parent, here]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(here / "two_processes.py"), str(tiny_dataset), str(tmp_path)]
    ran = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert ran.returncode == 0, ran.stderr
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # step 4 takes draws 12 to 15; those of the second process are 14 and 15, and the last one is NaN
    bad = volumes_of(SimpleNamespace(dataset=tiny_dataset), 7)[1]
    found = f"first in layer 'network.encoder.stages.0.conv1.conv', with volumes {bad} in the batch"
    assert f"{found}; rolled back to the last saved state, 1 so far" in ran.stderr
    assert ran.stderr.count("so far") == 1


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches_are_distributed_in_turn_to_the_processes(processes):
    ready = PreprocessedVolume(torch.ones(1, 8, 8, 8), None, torch.eye(4).double().numpy(), 2)
    patches = pretraining_patches(PreprocessingPlan(3, (8, 8, 8)))
    draws = PatchDataset([tiny.row()], lambda volume: ready, patches, labelled=False, seed=0)
    words = {"batch_size": 2, "workers": 0}
    shares = [
        [
            batch["draw"].tolist()
            for batch in batches(draws, SampleRange(24, start=12), **words, share=(number, processes))
        ]
        for number in range(processes)
    ]
    taken = [batch for step in zip(*shares, strict=True) for batch in step]
    assert taken == [[number, number + 1] for number in range(12, 24, 2)]
