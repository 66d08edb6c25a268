"""Tests of the grades that the ordinal task uses, and of its cost."""

from pathlib import Path

import pytest
import tiny
import torch

from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.errors import DataError, UsageError
from medmim.training.tasks.ordinal import Ordinal


def names_of(grades, **options):
    rows = tuple(tiny.row(f"p{n}").model_copy(update={"target": text}) for n, text in enumerate(grades))
    return Ordinal(**options).names(Dataset(Path(), DatasetInfo(name="d"), rows), rows, None)


def test_numbers_are_ordered_by_their_value():
    assert names_of(["10", "2", "0.5", "2"]) == {0: "0.5", 1: "2", 2: "10"}


def test_words_need_an_order():
    order = ["none", "mild", "severe"]
    assert names_of(["severe", "none"], order=order) == dict(enumerate(order))
    assert names_of(["1", "0"], order=[0, 1, 2]) == {0: "0", 1: "1", 2: "2"}
    with pytest.raises(UsageError, match=r"got mild, none; give it .*task_options\.order"):
        names_of(["mild", "none"])
    with pytest.raises(UsageError, match="got none, mild without severe"):
        names_of(["severe", "none"], order=order[:2])


def test_measurements_and_two_words_for_one_number_are_rejected():
    with pytest.raises(DataError, match="at most 20 different numbers, got 30"):
        names_of([str(n) for n in range(30)])
    with pytest.raises(UsageError, match=r"expected different numbers .* got 1, 1\.0"):
        names_of(["1", "1.0"])


def test_a_far_error_costs_more_than_a_near_one():
    scores = torch.tensor([[8.0, 0.0, 0.0, 0.0]])
    near, far = (float(Ordinal().cost(scores, torch.tensor([grade]))) for grade in (1, 3))
    assert far == pytest.approx(near + 2, abs=0.02)
    same = [float(Ordinal(distance=0.0).cost(scores, torch.tensor([grade]))) for grade in (1, 3)]
    assert same[0] == pytest.approx(same[1])
