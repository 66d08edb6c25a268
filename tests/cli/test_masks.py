"""`medmim masks`: its words, its table and its JSON."""

import json

import pytest
import torch
from click.testing import CliRunner

from medmim.cli import main
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.masks import MASKS
from medmim.training.weights import save_weights


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, ["masks", *words])


def test_a_table_and_the_path_of_the_picture_are_printed(run, tmp_path):
    result = run("--mask", "mesh", "--mask", "square", "--ratio", "0.7", "--grid", "7")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["mask", "ratio", "hidden", "unevenness", "distinct", "draw", "ms", "distance"]
    assert lines[1].split()[:3] == ["mesh", "0.70", "0.6939"]
    assert lines[-2] == "picture  medmim-masks.png"
    assert lines[-1].split() == ["next", "medmim", "pretrain", "--mask", "mesh"]
    assert (tmp_path / "medmim-masks.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_every_mask_at_seven_ratios(run):
    result = run("--json", "--grid", "4,5", "--out", "deep/own.png")
    content = json.loads(result.output.splitlines()[-1])
    assert content["picture"] == "deep/own.png"
    assert [(row["mask"], row["ratio"]) for row in content["masks"]] == [
        (name, ratio) for name in MASKS for ratio in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ]


def test_a_dataset_adds_columns_for_tissue_and_lesion(run, tiny_dataset):
    result = run("--data", str(tiny_dataset), "--mask", "tissue", "--ratio", "0.5")
    assert result.exit_code == 0, result.output
    assert (
        "tissue  lesion  lesion lost  masked ΔH  reuse ΔH  masked alike  reuse alike  F-score"
        in result.output
    )


def test_the_analysis_uses_the_encoder_of_a_model(run, tiny_dataset, tmp_path):
    torch.manual_seed(0)
    words = {"widths": [4, 4, 6, 8]}
    encoder = build_encoder("resnet18", spatial_dims=2, in_channels=1, **words)
    about = {"spatial_dims": 2, "in_channels": 1, "encoder": "resnet18", "encoder_options": words}
    about |= PreprocessingPlan(2, (32, 32)).as_json()
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    file = save_weights(tmp_path / "kept", weights, about)
    given = ["--data", str(tiny_dataset), "--mask", "mesh", "--ratio", "0.5", "--dims", "2", "--json"]
    results = [run(*given), run(*given, "--model", str(file))]
    assert [result.exit_code for result in results] == [0, 0], results[1].output
    untaught, taught = (json.loads(one.output.splitlines()[-1])["masks"][0] for one in results)
    assert untaught["hidden"] == taught["hidden"]
    assert untaught["analysis"]["reuse_entropy"] == taught["analysis"]["reuse_entropy"]
    assert untaught["analysis"]["reuse_similarity"] != taught["analysis"]["reuse_similarity"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask", "mehs"], "medmim: unknown mask 'mehs'; did you mean 'mesh'?"),
        (["--ratio", "1"], "medmim: --ratio: expected a number between 0 and 1, both excluded, got 1"),
        (["--grid", "a,b"], "--grid: expected one number or one per axis, such as 64 or 40,56,40; got 'a,b'"),
        (["--dims", "4"], "4 is not in the range 2<=x<=3"),
        (["--volume", "x"], "--volume: expected --data DATASET with it"),
        (["--model", "x"], "--model: expected --data DATASET or --image FILE with it"),
        (["--data", "a", "--image", __file__], "expected one of --data, --image, got both"),
    ],
)
def test_invalid_arguments_exit_with_code_2(run, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(("word", "code"), [("--data", 1), ("--image", 2)])
def test_absent_files_are_named(run, word, code):
    result = run(word, "absent")
    assert result.exit_code == code
    assert result.output.startswith("medmim: ")
    assert len(result.output.splitlines()) == 1


def test_help_names_every_option_with_an_example(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in (
        "--mask",
        "--ratio",
        "--dims",
        "--grid",
        "--data",
        "--volume",
        "--image",
        "--model",
        "--seed",
        "--out",
        "--json",
    ):
        assert word in result.output
    assert "Examples:" in result.output
