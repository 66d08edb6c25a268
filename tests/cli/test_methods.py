"""`medmim methods`: one line per method, and JSON."""

import json

from click.testing import CliRunner

from medmim.cli import main
from medmim.methods import METHODS


def test_the_command_prints_one_line_per_method_and_json():
    plain, machine = (CliRunner().invoke(main, ["methods", *words]) for words in ([], ["--json"]))
    assert plain.exit_code == machine.exit_code == 0, plain.output + machine.output
    names = [line.split()[0] for line in plain.stdout.splitlines()[1 : len(METHODS) + 1]]
    assert names == list(METHODS)
    assert "task: every method supports segmentation, detection and classification" in plain.stdout
    result = json.loads(machine.stdout.splitlines()[-1])
    assert result["dims"] == 2
    assert {"method", "target", "architecture", "objective", "mask", "ratio", "encoder"} <= result["methods"][
        0
    ].keys()
