"""`medmim verify`: exit code, JSON, and the volumes that it names."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from medmim.cli import main
from medmim.data.dataset.manifest import read_dataset


@pytest.fixture
def dataset(tiny_dataset, tmp_path):
    return Path(shutil.copytree(tiny_dataset, tmp_path / "data"))


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def test_the_command_fails_for_damaged_datasets(dataset):
    runner = CliRunner()
    assert runner.invoke(main, ["verify", str(dataset)]).exit_code == 0
    volume = read_dataset(dataset).volumes[0]
    flip(dataset / volume.image, random.Random(1))
    ran = runner.invoke(main, ["verify", str(dataset), "--json"])
    assert ran.exit_code == 1
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["problems"] == [{"what": "volume", "id": volume.id, "reason": "changed since it was written"}]
    assert volume.id in runner.invoke(main, ["verify", str(dataset)]).output
    assert runner.invoke(main, ["verify", str(dataset / "nowhere")]).exit_code == 1


def test_images_without_a_perceptual_hash_are_named(dataset):
    count = len(read_dataset(dataset).volumes)
    found = CliRunner().invoke(main, ["verify", str(dataset)])
    assert f"altered copies were not looked for among {count} images of {count}, for lack" in found.output
