"""Tests of `medmim/training/evaluation/calibration.py`."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from medmim.training.evaluation.calibration import (
    best_temperature,
    binned_error,
    calibration_curve,
    calibration_error,
)


def test_the_error_equals_that_of_torchmetrics_and_counts_weights_as_repeated_cases():
    rng = np.random.default_rng(0)
    shares, truth = rng.dirichlet(np.ones(3), 200), rng.integers(3, size=200)
    expected = multiclass_calibration_error(torch.tensor(shares), torch.tensor(truth), 3, n_bins=15)
    assert calibration_error(truth, shares) == pytest.approx(float(expected), abs=1e-6)
    predicted, happened, weights = rng.random(50), rng.integers(2, size=50) * 1.0, rng.integers(4, size=50)
    repeated = (np.repeat(one, weights) for one in (predicted, happened))
    assert binned_error(predicted, happened, weights * 1.0) == pytest.approx(
        binned_error(*repeated, np.ones(int(weights.sum())))
    )
    assert math.isnan(binned_error(*[np.zeros(0)] * 3))


def test_bins_of_the_calibration_curve_have_equally_many_cases():
    rng = np.random.default_rng(0)
    first = rng.beta(8, 1, 1000)
    truth = (rng.random(1000) > first).astype(np.int64)
    curve = calibration_curve(truth, np.stack([first, 1 - first], axis=1), bins=5)
    assert [line["cases"] for line in curve] == ["200"] * 5
    assert all(abs(float(line["confidence"]) - float(line["accuracy"])) < 0.1 for line in curve)


def test_the_best_temperature_lies_between_a_fifth_and_five():
    for best, found in ((2.0, 2.0), (100.0, 5.0), (0.01, 0.2)):
        assert best_temperature(lambda value, best=best: math.log(value / best) ** 2) == pytest.approx(
            found, rel=1e-3
        )
