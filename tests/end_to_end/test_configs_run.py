"""Every shipped preset runs through the command line on a small dataset, one step each."""

import json

import pytest
from click.testing import CliRunner

from medmim import files
from medmim.cli import main

CONFIGS = sorted(files.shipped("configs").glob("*/*.yaml"))
# the dataset has seven labelled patients, and slices of 20×16 pixels
SMALL_VIT = ["--set", "encoder_options.width=32", "--set", "encoder_options.depth=1"]
SMALL_VIT += ["--set", "encoder_options.heads=2", "--set", "method_options.projector=32", "--size", "80"]
SMALLER = {
    "segment_few": ["--set", "labelled=3"],
    "latent_mim_paper": SMALL_VIT,
    "latent_mim_code": SMALL_VIT,
    "simmim_swin": ["--size", "64"],
}


def run(*words):
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home_of_all(new_home):
    """One home folder for all presets, as a user would have."""
    return new_home()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_preset(path, tiny_dataset, study, home_of_all, monkeypatch):
    home = home_of_all if path.parent.name == "pretrain" else study.home
    monkeypatch.setenv("MEDMIM_HOME", str(home))
    # the first line holds the command that runs it
    command = (
        path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# medmim ").split(" --")[0].split()
    )
    words = ["--config", path.stem, "--data", tiny_dataset, "--steps", "1", "--batch-size", "2"]
    result = run(*command, *words, *SMALLER.get(path.stem, []))
    assert result["metrics"]["last/steps"] == 1
