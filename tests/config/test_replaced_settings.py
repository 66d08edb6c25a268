import pytest

from medmim.config.replaced_settings import Replacements, merge, nested
from medmim.config.runs import FinetuneSettings
from medmim.config.yaml_settings import resolve


@pytest.mark.parametrize(
    ("flags", "overrides", "lines"),
    [
        ({"steps": 1}, ["steps=2"], ["--set steps=2 replaces --steps 1"]),
        ({"minutes": 3.0}, ["steps=2"], ["--set steps=2 replaces --minutes 3.0"]),
        ({"num_labelled": 5}, ["label_fraction=0.5"], ["--set label_fraction=0.5 replaces --num-labelled 5"]),
        ({"seed": 1}, ["seed=1"], []),
        ({"size": (16,)}, ["size=16"], []),
        ({"size": (16,)}, ["size=32,16,16"], ["--set size=32,16,16 replaces --size 16"]),
        ({}, ["lr=1", "lr=2", "seed=3"], ["--set lr=2 replaces --set lr=1"]),
        ({}, ["task_options.mixup=0.1", "task_options.smooth=0.1"], []),
    ],
)
def test_a_word_that_replaces_another_one_is_said(flags, overrides, lines, caplog):
    resolve(FinetuneSettings, flags=flags, overrides=overrides)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if "replaces" in line] == lines


def test_a_word_that_was_replaced_is_not_said_again(caplog):
    words = Replacements({"steps": 1})
    words.log("minutes", 2, word="--set minutes=2")
    words.log("minutes", 2, word="--set minutes=2")
    assert [record.getMessage() for record in caplog.records] == ["--set minutes=2 replaces --steps 1"]


def test_a_budget_replaces_one_in_another_unit():
    values = {"steps": 5, "lr": 0.1}
    merge(values, {"minutes": 2})
    assert values == {"minutes": 2, "lr": 0.1}


def test_one_option_changes_and_the_others_stay():
    assert nested({"a": {"b": 1, "c": 2}}, "a.b", 3) == {"a": {"b": 3, "c": 2}}
    assert nested({"a": 7}, "a.b", 3) == {"a": {"b": 3}}
