"""Tests of the metrics of classes that do not exclude each other."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from medmim.training.evaluation.multilabel_metrics import (
    best_threshold,
    columns_of,
    label_means,
    shared_temperature,
    with_temperature,
)


def rows_of(truth, shares, threshold=0.5):
    """Rows of one class `a`; a truth of None is unknown."""
    return [
        {
            "labels": {} if value is None else {"a": value},
            "probabilities": {"a": share},
            "found": ["a"] if share >= threshold else [],
        }
        for value, share in zip(truth, shares, strict=True)
    ]


def column(truth, shares):
    return columns_of(rows_of(truth, shares), ["a"])["a"]


@pytest.mark.parametrize("seed", range(50))
def test_auroc_and_f1_equal_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = [0, 1, *rng.integers(0, 2, 18).tolist()]
    shares = rng.uniform(size=20).round(1)  # with ties
    weights = np.array([1.0, 1.0, *rng.integers(0, 3, 18)])
    one = column(truth, shares)
    assert one.auroc(weights) == pytest.approx(roc_auc_score(truth, shares, sample_weight=weights))
    guess = shares >= 0.5
    assert one.f1(weights) == pytest.approx(f1_score(truth, guess, sample_weight=weights, zero_division=0))


def test_unknown_cases_change_no_metric():
    known = columns_of(rows_of([1, 0, 1, 0], [0.9, 0.2, 0.4, 0.6]), ["a"])
    more = columns_of(rows_of([1, 0, 1, 0, None, None], [0.9, 0.2, 0.4, 0.6, 0.99, 0.01]), ["a"])
    assert label_means(more, np.ones(6)) == label_means(known, np.ones(4))


def test_a_class_without_positive_cases_has_no_score():
    found = label_means(columns_of(rows_of([0, 0, None], [0.9, 0.1, 0.5]), ["a"]), np.ones(3))
    assert found == {"positives_a": 0.0, "negatives_a": 2.0, "ece": pytest.approx(0.5)}


def test_a_class_without_negative_cases_has_no_auroc():
    found = label_means(columns_of(rows_of([1, 1], [0.9, 0.1]), ["a"]), np.ones(2))
    assert found.keys() == {"macro_f1", "f1_a", "positives_a", "negatives_a", "ece"}


def test_the_threshold_with_the_highest_f1_is_chosen():
    truth, shares = [0, 0, 1, 1, None], [0.1, 0.2, 0.3, 0.25, 0.9]
    chosen = best_threshold(column(truth, shares))
    again = columns_of(rows_of(truth, shares, chosen), ["a"])["a"]
    assert again.f1(np.ones(5)) == 1.0
    assert best_threshold(column([1, 1], [0.2, 0.4])) == 0.5
    assert best_threshold(column([], [])) == 0.5


def test_probabilities_that_are_too_sure_are_calibrated():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 4000)
    truth = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(int).tolist()
    sure = column(truth, (1 / (1 + np.exp(-3 * logits))).tolist())
    temperature = shared_temperature({"a": sure})
    assert temperature == pytest.approx(3, rel=0.1)
    whole, cooled = np.ones(4000), with_temperature(sure, temperature)
    assert cooled.calibration_error(whole) < 0.03 < 0.1 < sure.calibration_error(whole)
    assert cooled.auroc(whole) == pytest.approx(sure.auroc(whole), abs=1e-4)
    assert shared_temperature({"a": column([], [])}) == shared_temperature({}) == 1.0
