"""Tests of the metrics of predicted numbers."""

import numpy as np
import pytest
from scipy import stats

from medmim.training.evaluation.regression_metrics import r2_of, regression_means


def rows_of(truth, guess, patients=None):
    names = patients or [f"p{number}" for number in range(len(truth))]
    return [
        {"subject": who, "value": t, "predicted": g} for who, t, g in zip(names, truth, guess, strict=True)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_the_plain_formulas(seed):
    rng = np.random.default_rng(seed)
    truth = rng.normal(60, 15, 12)
    guess = truth + rng.normal(2, 6, 12)
    found = regression_means(rows_of(truth, guess))
    errors = guess - truth
    assert found["mae"] == pytest.approx(np.abs(errors).mean())
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert found["r2"] == pytest.approx(1 - errors.var() / truth.var() - errors.mean() ** 2 / truth.var())
    assert found["spearman"] == pytest.approx(np.corrcoef(stats.rankdata(truth), stats.rankdata(guess))[0, 1])
    reach = 1.96 * stats.tstd(errors)
    assert found["bias_upper_limit"] - found["bias"] == pytest.approx(reach)
    assert found["bias"] - found["bias_lower_limit"] == pytest.approx(reach)


def test_images_of_a_patient_are_averaged():
    found = regression_means(rows_of([50.0, 50.0, 70.0], [40.0, 60.0, 71.0], ["a", "a", "b"]))
    assert found["mae"] == pytest.approx(0.5)


def test_metrics_that_are_undefined_are_left_out():
    assert set(regression_means(rows_of([50.0], [55.0]))) == {"mae", "rmse", "bias"}
    assert not {"r2", "spearman"} & regression_means(rows_of([50.0, 50.0], [55.0, 45.0])).keys()
    assert regression_means([]) == {}
    assert np.isnan(r2_of(np.ones(2), np.ones(2), np.zeros(2)))
