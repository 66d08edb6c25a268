"""Every result ends with the command to run next; the control has the options and the encoder of the run."""

import json
import shlex

import pytest
import tiny

from medmim.cli.next_command import next_control, next_finetuning
from medmim.cli.options import print_result
from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.splits import partition
from medmim.training.recipe import with_recipe


@pytest.fixture
def control(tiny_dataset, tmp_path):
    """Return the words of the control after a run with an encoder; None: the one of the recipe."""

    def words(encoder=None, options=(), values=(), overrides=(), config=None):
        settings = FinetuneSettings(task="segment", data=tiny_dataset)
        default = with_recipe(settings, partition(read_dataset(tiny_dataset), fold=None).train, dims=3)
        used = (encoder, dict(options)) if encoder else (default.encoder, default.encoder_options)
        description = {"encoder": used[0], "encoder_options": used[1], "spatial_dims": 3}
        (tmp_path / "weights.json").write_text(json.dumps(description))
        weights = tmp_path / "weights.safetensors"
        command = next_control(settings, dict(values), overrides, config, weights)
        assert command.endswith(", then medmim compare")
        return shlex.split(command.removesuffix(", then medmim compare"))

    return words


def test_the_encoder_of_the_recipe_is_not_repeated(control, tiny_dataset):
    expected = ["medmim", "finetune", "segment", "--init", "scratch", "--data", str(tiny_dataset)]
    assert control() == expected


def test_an_encoder_of_the_initial_weights_is_named(control):
    words = control("my_nets:build", {"widths": [8, 16]})
    assert words[words.index("--encoder") + 1] == "my_nets:build"
    assert words[words.index("--set") + 1] == "encoder_options.widths=[8, 16]"


def test_the_options_of_the_run_are_repeated(control):
    values = {"task": "segment", "init": "3f2a", "minutes": 7.0, "size": (16, 16, 16), "num_labelled": 2}
    words = control(values=values, overrides=("mode=linear_probe",), config="mine.yaml")
    assert "3f2a" not in words
    text = " ".join(words)
    for part in (
        "--minutes 7.0",
        "--size 16,16,16",
        "--num-labelled 2",
        "--set mode=linear_probe",
        "--config=mine.yaml",
    ):
        assert part in text


def test_after_the_control_comes_the_comparison(tmp_path):
    settings = FinetuneSettings(task="segment", init="scratch")
    assert next_control(settings, {}, (), None, tmp_path / "weights.safetensors") == "medmim compare"


def test_the_next_command_names_the_users_own_encoder(tmp_path):
    data = tiny.make_dataset(tmp_path / "data")
    assert next_finetuning(data, "my_nets:build").endswith(f"{data} --trust-code my_nets:build")
    assert next_finetuning(data, "timm:convnext_tiny").endswith(str(data))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("page         x", "next         medmim ui"),
        ("arm                   Dice", "next  medmim ui"),
        ("1 run", "next  medmim ui"),
    ],
)
def test_the_next_command_is_the_last_line_and_aligned(first, last, capsys):
    print_result({}, as_json=False, lines=[first, "more"], following="medmim ui")
    assert capsys.readouterr().out.splitlines() == [first, "more", last]
