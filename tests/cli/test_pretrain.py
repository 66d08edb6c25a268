"""`medmim pretrain`: invalid arguments, and signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
from click.testing import CliRunner
from command_line import assert_one_line_error

from medmim.cli import main
from medmim.tracking.mlflow_store import Store


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pretrain", "--ratio", "1.2"], 2, "ratio: expected a value less than 1, got 1.2"),
        (["pretrain", "--ratio", "0"], 2, "ratio: expected a value greater than 0"),
        (["pretrain", "--mask", "mush"], 2, "did you mean 'mesh'"),
        (["pretrain", "--method", "sparc"], 2, "did you mean 'spark'"),
        (["pretrain", "--encoder", "resnet81"], 2, "did you mean 'resnet18'"),
        (["pretrain", "--encoder", "no_such_module:net"], 2, "cannot import it"),
        (
            ["pretrain", "--size", "8", "--cell", "big"],
            2,
            "cell: expected voxels such as 8 or 8,8,4, or mill",
        ),
        (["pretrain", "--size", "8", "--cell", "1mm"], 1, "use --cell 8mm,8mm,8mm"),
        (["pretrain", "--size", "8", "--cell", "16"], 1, "use --size 16,16,16"),
        (["pretrain", "--size", "16", "--cell", "16"], 1, "a mask needs at least 2 cells, got 1"),
        (["pretrain", "--size", "wide"], 2, "--size: expected one number or one per axis"),
        (["pretrain", "--steps", "1", "--minutes", "2"], 2, "expected one of steps, epochs, minutes"),
        (["pretrain", "--steps", "0"], 2, "steps: expected a value greater than 0"),
        (
            ["pretrain", "--precision", "fp8"],
            2,
            "precision: expected 'auto', 'fp32', 'bf16' or 'fp16'",
        ),
        (["pretrain", "--dims", "4"], 2, "--dims"),
        (["pretrain", "--fold", "5"], 2, "fold: expected a value less than or equal to 4"),
        (["pretrain", "--set", "raito=0.5"], 2, "unknown key 'raito'; did you mean 'ratio'?"),
        (["pretrain", "--set", "ratio"], 2, "expected key=value"),
        (["pretrain", "--config", "spark_mash"], 2, "did you mean 'spark_mesh'?"),
        (["pretrain", "--init", "abc"], 1, "--init abc: expected `scratch`"),
        (["pretrain", "--resume"], 1, "no unfinished pretrain run here"),
        (["pretrain", "--resume", "abc"], 1, "--resume abc: expected `latest`"),
        (["pretrain", "--resume", "--mask", "random"], 2, "leave out --mask"),
        (["pretrain", "--resume", "--set", "lr=1"], 2, "leave out --set lr; it accepts only devices"),
        (["pretrain", "--resume", "--config", "spark_mesh"], 2, "leave out --config"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_wrong_is_one_line_and_an_exit_code(tiny_dataset, home, words, code, message):
    assert_one_line_error([*words, "--data", tiny_dataset], code, message)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_with_its_code_and_resume_gives_the_same_bytes(tiny_dataset, new_home, number):
    home, words = new_home(), ["--data", str(tiny_dataset), *tiny.TINY_WORDS, "--steps", "20"]
    words += ["--set", "num_evaluations=1"]
    environment = {**os.environ, "MEDMIM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    # what a shell starts in the background ignores SIGINT, and its children would inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        [sys.executable, "-m", "medmim", "pretrain", *words, "--set", "checkpoint_every_steps=1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while not list(home.glob("checkpoints/*/state-*.safetensors")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(number)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 128 + number, stderr
    kept = "the training state is saved: continue with `medmim pretrain --resume`"
    assert stderr.splitlines()[-1] == f"medmim: interrupted by {number.name}; {kept}"
    assert Store(home).runs(stage="pretrain")[0].info.status == "KILLED"

    resume = ["--resume", "--data", str(tiny_dataset), "--workers", "1", "--set", "on-nonfinite=skip"]
    finished, whole = (
        CliRunner(env={"MEDMIM_HOME": str(place)}).invoke(main, ["pretrain", *extra, "--json"])
        for place, extra in ((home, resume), (new_home(), words))
    )
    paths = []
    for result in (finished, whole):
        assert result.exit_code == 0, result.output
        paths.append(json.loads(result.stdout)["checkpoint"])
    with open(paths[0], "rb") as resumed, open(paths[1], "rb") as expected:  # noqa: PTH123
        assert resumed.read() == expected.read()
