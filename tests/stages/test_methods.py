"""`medmim methods`: the table along the survey's axes."""

import json

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.masks import MASKS
from medmim.methods import METHODS
from medmim.stages.methods import list_methods


@pytest.mark.parametrize("dims", [2, 3])
def test_every_method_has_a_row_with_its_axes(dims):
    rows = list_methods(dims)
    assert [row.method for row in rows] == list(METHODS)
    for row in rows:
        assert all([row.target, row.architecture, row.objective])
        assert row.mask in MASKS
        assert 0 < row.ratio < 1
        assert row.parameters >= row.encoder_parameters > 0
    assert {row.method for row in rows if row.views == 2} == {"contrastive", "mim_contrast", "volume_fusion"}
    assert {row.method for row in rows if row.sees_hidden} == {"mask_any_net", "voco", "volume_fusion"}
    assert next(row for row in rows if row.method == "simmim").options == {"target": "raw"}


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
