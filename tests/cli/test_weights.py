import json

import pytest
import torch
from click.testing import CliRunner
from public_networks import save_medicalnet

from medmim.cli import main


@pytest.fixture
def public(tmp_path):
    return save_medicalnet(tmp_path / "resnet_tiny.pth")


def test_the_command_prints_encoder_mapping_and_json(public):
    shown = CliRunner().invoke(main, ["weights", str(public)])
    assert "encoder  --encoder resnet18 --dims 3, max_pool=True" in shown.stdout
    assert "layer*.*.conv* → stages.*.*.conv* (8)" in shown.stdout
    assert "patients seen before: unknown" in shown.stdout
    described = json.loads(CliRunner().invoke(main, ["weights", str(public), "--json"]).stdout)
    assert described["prefix"] == "state_dict.module."


def test_a_strange_file_is_one_line_with_exit_code_1(tmp_path):
    torch.save({"strange.weight": torch.ones(1)}, tmp_path / "x.pth")
    shown = CliRunner().invoke(main, ["weights", str(tmp_path / "x.pth")])
    assert shown.exit_code == 1
    assert "fit no known network" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1
