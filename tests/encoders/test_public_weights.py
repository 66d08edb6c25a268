import pytest
import torch

from medmim.encoders.families import FAMILIES
from medmim.encoders.public_weights import family_of_rules, recognise
from medmim.errors import TransferError

ONE = torch.ones(1)


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
