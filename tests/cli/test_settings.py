"""The help of a training lists the settings of its task."""

import pytest
from click.testing import CliRunner

from medmim.cli import main


def help_of(*words):
    return CliRunner().invoke(main, [*words, "--help"]).output


@pytest.mark.parametrize(
    ("words", "shown", "missing"),
    [
        (("finetune", "segment"), "task_options.criterion", "task_options.mixup"),
        (("finetune", "classify"), "task_options.mixup", "task_options.criterion"),
        (("pretrain",), "mask_options", "num_labelled"),
    ],
)
def test_help_lists_the_settings_of_the_task(words, shown, missing):
    text = help_of(*words)
    assert shown in text
    assert missing not in text.split("Settings of")[1]


def test_help_shows_the_defaults_of_its_own_command():
    assert "vit for token methods" in " ".join(help_of("pretrain").split())
    assert "that of --init" in " ".join(help_of("finetune").split())


def test_the_command_lists_limits_and_defaults():
    printed = CliRunner().invoke(main, ["settings", "pretrain"]).output
    assert "ratio   number > 0 and < 1   [default: 0.7]\n    share of mask cells to hide." in printed
