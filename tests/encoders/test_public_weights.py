"""Tests of `medmim/encoders/public_weights.py`."""

import argparse
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medmim.encoders.families import FAMILIES
from medmim.encoders.public_weights import family_of_rules, read_content, recognise, tensors_of
from medmim.errors import RunError, TransferError


def read_tensors(path):
    return tensors_of(read_content(path), path)


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


ONE = torch.ones(1)


def test_rules_that_name_no_tensor_are_refused():
    family = family_of_rules("dynunet", {}, {r"conv\.(.+)": r"stages.\1"})
    with pytest.raises(
        TransferError, match=r"no rule matches a complete name in the file, such as 'net\.conv\.w'"
    ):
        recognise({"net.conv.w": ONE}, [family])


def test_weights_of_an_unknown_network_are_refused_with_the_known_ones():
    with pytest.raises(TransferError, match=r"such as a\.\*, b, fit no known network \(ResNet .*--init-map"):
        recognise({"a.1.weight": ONE, "b.bias": ONE}, FAMILIES)


def test_the_names_of_a_users_rules_replace_recognition():
    family = family_of_rules("dynunet", {"filters": [4]}, {r"net\.(\d+)\.(\w+)": r"stages.\1+1.\2"})
    found = recognise({"net.0.weight": ONE, "head.weight": ONE}, [family])
    assert (found.encoder, found.options) == ("dynunet", {"filters": [4]})
    assert list(found.weights) == ["encoder.stages.1.weight"]
    assert found.ignored == ("head.weight",)


def test_a_prefix_ends_at_a_dot_and_all_marks_are_below_it():
    family = FAMILIES[0]
    marks = dict.fromkeys(family.marks, ONE)
    spread = {f"{letter}.{name}": value for letter, (name, value) in zip("abcd", marks.items(), strict=True)}
    glued = {f"x{name}": value for name, value in marks.items()}
    for weights in (spread, glued):
        with pytest.raises(TransferError, match="fit no known network"):
            recognise(weights, [family])


def test_the_mapping_is_printed_by_kinds_of_modules():
    family = family_of_rules("dynunet", {}, {r"net\.(.+)": r"stages.\1"})
    weights = {f"net.{number}.conv.{name}": ONE for number in range(3) for name in ("weight", "bias")}
    assert recognise(weights, [family]).lines() == [
        "names of --init-map: fits encoder dynunet",
        "  net.*.conv → stages.*.conv (6)",
    ]
