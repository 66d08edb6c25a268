import argparse
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medmim.encoders.tensor_files import read_tensors
from medmim.errors import RunError


class Planted:
    """An object that runs a command when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_tensors_of_nested_checkpoints_are_named_by_their_path(tmp_path):
    content = {
        "state_dict": {"module.conv.weight": torch.ones(2)},
        "args": argparse.Namespace(lr=0.1),
        "history": [np.float64(0.5), np.float32(0.5)],
        "optimizer": {"state": {0: {"momentum": torch.ones(3)}}},
    }
    torch.save(content, tmp_path / "new.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "old.pth"):
        assert list(read_tensors(tmp_path / name)) == ["state_dict.module.conv.weight"]
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert list(read_tensors(tmp_path / "a.safetensors")) == ["a"]


def test_code_in_a_pickle_is_named_and_not_executed(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}, "x": Planted(tmp_path / "planted")}, tmp_path / "bad.pth")
    with pytest.raises(
        RunError, match=r"^'bad\.pth' is a pickle that needs the code '\w+\.mkdir'; nothing in it"
    ):
        read_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "planted").exists()


def test_whole_networks_are_refused_and_their_class_is_named(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    with pytest.raises(RunError, match=r"needs the code 'torch\.nn\.modules\.linear\.Linear'.*state_dict"):
        read_tensors(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off"])
def test_damaged_files_are_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        RunError, match=rf"^'{name}' cannot be read as weights \(\w+\): expected a safetensors"
    ):
        read_tensors(tmp_path / name)


def test_files_without_tensors_and_missing_files_are_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(RunError, match=r"'x\.pth' contains no tensor"):
        read_tensors(tmp_path / "x.pth")
    with pytest.raises(RunError, match=r"no weights at '.*gone\.pth'"):
        read_tensors(tmp_path / "gone.pth")
