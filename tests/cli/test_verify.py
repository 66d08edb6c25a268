"""`medmim verify`: exit code, JSON, and the volumes that it names."""

from __future__ import annotations

import json
import random

import tiny
from click.testing import CliRunner

from medmim.cli import main
from medmim.data.dataset.manifest import read_dataset


def test_the_command_fails_for_damaged_datasets(dataset_copy):
    runner = CliRunner()
    assert runner.invoke(main, ["verify", str(dataset_copy)]).exit_code == 0
    volume = read_dataset(dataset_copy).volumes[0]
    tiny.flip_a_bit(dataset_copy / volume.image, random.Random(1))
    ran = runner.invoke(main, ["verify", str(dataset_copy), "--json"])
    assert ran.exit_code == 1
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["problems"] == [{"what": "volume", "id": volume.id, "reason": "changed since it was written"}]
    assert volume.id in runner.invoke(main, ["verify", str(dataset_copy)]).output
    assert runner.invoke(main, ["verify", str(dataset_copy / "nowhere")]).exit_code == 1


def test_images_without_a_perceptual_hash_are_named(dataset_copy):
    count = len(read_dataset(dataset_copy).volumes)
    found = CliRunner().invoke(main, ["verify", str(dataset_copy)])
    assert f"altered copies were not searched for among {count} images of {count}, which" in found.output
