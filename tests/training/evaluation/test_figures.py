"""Tests of `medmim/training/evaluation/figures.py`."""

import io

import numpy as np
import pytest
from PIL import Image

from medmim.training.evaluation.figures import classification_figure

NAMES = ["calm", "odd", "$rare"]


def rows(names, truth):
    draws = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(truth))
    return [
        {"class": name, "subject": str(number), "probabilities": dict(zip(names, shares, strict=True))}
        for number, (name, shares) in enumerate(zip(truth, draws, strict=True))
    ]


@pytest.mark.parametrize(
    ("names", "truth"),
    [
        (NAMES, NAMES * 12),
        (NAMES[:2], ["calm"] * 3 + ["odd"] * 9),
        (NAMES[:2], ["calm"] * 3),
        (NAMES, [*NAMES, "not trained on"]),
        ([f"c{n}" for n in range(12)], [f"c{n}" for n in range(12)] * 2),
    ],
    ids=["three", "two", "one in test", "unknown", "twelve"],
)
def test_the_three_plots_are_drawn(names, truth):
    png = classification_figure(rows(names, truth), names, title="test, macro-F1 0.500")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size == (1210, 484)
