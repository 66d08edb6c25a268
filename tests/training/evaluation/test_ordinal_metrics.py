"""Tests of the metrics of ordered grades."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from medmim.training.evaluation.ordinal_metrics import grade_table, grades_of, ordinal_means, quadratic_kappa


def rows_of(truth, guess, grades):
    return [
        {"grade": int(a), "predicted_grade": int(b), "grades": grades}
        for a, b in zip(truth, guess, strict=True)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_kappa_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    grades, cases = int(rng.integers(2, 7)), int(rng.integers(2, 30))
    truth, guess = rng.integers(grades, size=(2, cases))
    ours = quadratic_kappa(grade_table(truth, guess, grades))
    if len({*truth.tolist(), *guess.tolist()}) == 1:
        assert math.isnan(ours)
    else:
        expected = cohen_kappa_score(truth, guess, labels=range(grades), weights="quadratic")
        assert ours == pytest.approx(expected, abs=1e-12)


def test_a_far_error_costs_more_than_a_near_one():
    truth = [0, 1, 2, 3]
    near, far = (ordinal_means(rows_of(truth, [0, 1, 2, guess], 4)) for guess in (2, 0))
    assert near["quadratic_kappa"] > far["quadratic_kappa"]
    assert (near["mean_grade_error"], far["mean_grade_error"]) == (0.25, 0.75)
    assert (near["within_one_grade"], far["within_one_grade"]) == (1.0, 0.75)


def test_kappa_of_a_single_grade_is_undefined():
    assert "quadratic_kappa" not in ordinal_means(rows_of([1, 1], [1, 1], 3))
    assert ordinal_means([]) == {}


def test_the_most_probable_grade_is_predicted():
    found = grades_of({"severe": 0.2, "none": 0.5, "mild": 0.3}, "mild", ["none", "mild", "severe"])
    assert found == {"grade": 1, "predicted_grade": 0, "grades": 3}
