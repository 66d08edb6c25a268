"""Tests of `medmim/training/evaluation/classification_metrics.py`."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.metrics import cohen_kappa_score
from torchmetrics.functional.classification import multiclass_calibration_error

from medmim.training.evaluation.classification_metrics import (
    arrays,
    best_temperature,
    binned_error,
    calibration_curve,
    calibration_error,
    class_means,
    confusion,
    finite_mean,
    grade_table,
    grades_of,
    macro_f1,
    ordinal_means,
    quadratic_kappa,
    temperature,
)

NAMES = ["a", "b", "c"]


def rows(count=200, *, seed=0, sharp=1.0, patients=20):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        truth = int(rng.integers(3))
        scores = rng.normal(size=3) + 1.2 * np.eye(3)[truth]
        shares = np.exp(sharp * scores) / np.exp(sharp * scores).sum()
        found.append(
            {
                "class": NAMES[truth],
                "probabilities": dict(zip(NAMES, shares.tolist(), strict=True)),
                "subject": f"p{number % patients}",
            }
        )
    return found


def test_metrics_equal_those_of_scikit_learn():
    found = rows()
    truth, shares = arrays(found, NAMES)
    guess = shares.argmax(axis=1)
    means = class_means(found, NAMES)
    assert means["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    each = metrics.f1_score(truth, guess, average=None)
    assert [means[f"f1_{name}"] for name in NAMES] == pytest.approx(each.tolist())
    assert means["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, guess))
    assert means["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
    assert means["auroc"] == pytest.approx(metrics.roc_auc_score(truth, shares, multi_class="ovr"))


def test_patient_metrics_use_the_mean_probability_of_their_images():
    found = [
        {"class": "a", "probabilities": {"a": 0.9, "b": 0.1}, "subject": "p"},
        {"class": "a", "probabilities": {"a": 0.3, "b": 0.7}, "subject": "p"},
        {"class": "b", "probabilities": {"a": 0.4, "b": 0.6}, "subject": "q"},
    ]
    means = class_means(found, ["a", "b"])
    assert means["patient_accuracy"] == 1.0
    assert means["accuracy"] == pytest.approx(2 / 3)


def test_one_image_per_patient_gives_no_patient_metrics():
    assert not any(key.startswith("patient") for key in class_means(rows(30, patients=30), NAMES))


def test_images_of_a_class_absent_from_training_are_always_wrong():
    found = [{**row, "class": "new"} for row in rows(10)]
    means = class_means(found, NAMES)
    assert means["macro_f1"] == means["accuracy"] == 0
    assert "auroc" not in means


def test_classes_without_images_and_predictions_are_excluded_from_f1():
    truth, guess = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert macro_f1(confusion(truth, guess, 3)) == pytest.approx(
        metrics.f1_score(truth, guess, average="macro")
    )


def test_no_rows_give_no_metrics():
    assert class_means([], NAMES) == {}


def test_the_temperature_corrects_overconfidence():
    calibrated = rows(2000, sharp=1.0, seed=1)
    base = temperature(calibrated)
    assert temperature(rows(2000, sharp=3.0, seed=1)) == pytest.approx(3 * base, rel=0.02)
    sharp = rows(2000, sharp=3.0, seed=1)
    truth, shares = arrays(sharp, NAMES)
    logs = np.log(shares) / temperature(sharp)
    cooled = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    assert calibration_error(truth, cooled) < 0.5 * calibration_error(truth, shares)


def test_without_rows_the_temperature_is_one():
    assert temperature([]) == 1.0
    assert math.isfinite(temperature(rows(3)))


def test_a_class_absent_from_training_lowers_the_means():
    found = [*rows(), *({**row, "class": "new"} for row in rows(20, seed=1))]
    truth, shares = arrays(found, NAMES)
    guess = shares.argmax(axis=1)
    means = class_means(found, NAMES)
    assert means["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    assert means["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, guess))


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


def test_the_mean_leaves_out_values_that_are_not_finite():
    assert finite_mean([1.0, math.nan, 2.0, math.inf]) == 1.5
    assert math.isnan(finite_mean([math.nan]))
