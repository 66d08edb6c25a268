import json
import os

from click.testing import CliRunner
from monai.data.decathlon_datalist import load_decathlon_datalist

from medmim.cli import main
from medmim.data.dataset.manifest import read_dataset


def test_the_command_wants_a_format(tiny_dataset):
    result = CliRunner().invoke(main, ["export", "--data", str(tiny_dataset)])
    assert result.exit_code == 2
    assert "expected bundle, onnx, safetensors, nnunet or datalist" in result.stderr


def test_monai_reads_the_datalist(tiny_dataset, tmp_path):
    path = tmp_path / "list.json"
    words = ["export", "--datalist", "--data", str(tiny_dataset), "--out", str(path), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["format"] == "datalist"
    entries = load_decathlon_datalist(str(path), True, "training", base_dir=str(tiny_dataset))
    train = read_dataset(tiny_dataset).in_split("train")
    assert [one["image"] for one in entries] == [str(tiny_dataset / volume.image) for volume in train]
    assert all(os.path.isfile(one["label"]) for one in entries)  # noqa: PTH113
