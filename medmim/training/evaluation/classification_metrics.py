"""Metrics of classes and of ordered grades: F1, accuracy, AUROC, calibration error, kappa and distance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from monai.metrics.rocauc import compute_roc_auc
from scipy.optimize import minimize_scalar

Probabilities = Float[np.ndarray, "cases classes"]
Numbers = Int[np.ndarray, " cases"]
Confusion = Float[np.ndarray, "*samples truth predicted"]
Row = Mapping[str, Any]

_UNKNOWN = -1  # a class without training images: every prediction is wrong
_SMALLEST = 1e-12
_BINS = 15  # of the calibration error
_TEMPERATURES = (0.2, 5.0)
UNSEEN = "not in training"


def class_means(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """Return the metrics of cases and, with the prefix `patient_`, of patients.

    The probabilities of a patient are the mean over its images; its class is the most frequent one.
    """
    if not rows:
        return {}
    truth, shares = arrays(rows, names)
    found = _numbers(truth, shares, names)
    grouped = _by_patient(rows, names)
    if len(grouped[0]) < len(rows):
        found |= {f"patient_{key}": value for key, value in _numbers(*grouped, names).items()}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def arrays(rows: Sequence[Row], names: Sequence[str]) -> tuple[Numbers, Probabilities]:
    """Return the class index and the probabilities of each row."""
    place = {name: number for number, name in enumerate(names)}
    truth = np.array([place.get(row["class"], _UNKNOWN) for row in rows], dtype=np.int64)
    shares = np.array([[row["probabilities"][name] for name in names] for row in rows], dtype=np.float64)
    return truth, shares


def confusion(truth: Numbers, predicted: Numbers, classes: int) -> Confusion:
    """Return the confusion matrix, truth × prediction; the last row counts cases of unknown classes."""
    counts = np.zeros((classes + 1, classes))
    np.add.at(counts, (truth, predicted), 1)
    return counts


def f1_of(counts: Confusion) -> Float[np.ndarray, "*samples predicted"]:
    """Return the F1 of each class; NaN for a class that is neither present nor predicted."""
    right = np.diagonal(counts[..., :-1, :], axis1=-2, axis2=-1)
    predicted, present = counts.sum(axis=-2), counts[..., :-1, :].sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * right / (predicted + present))


def macro_f1(counts: Confusion) -> float:
    """Return the mean F1 of present or predicted classes; unknown classes count as one with F1 0."""
    unseen = [0.0] if counts[-1].any() else []
    return float(np.nanmean([*f1_of(counts), *unseen]))


def temperature(rows: Sequence[Row]) -> float:
    """Return the maximum-likelihood temperature; 1 without rows."""
    known = [row for row in rows if row["class"] in row["probabilities"]]
    if not known:
        return 1.0
    names = list(known[0]["probabilities"])
    truth, shares = arrays(known, names)
    logs = np.log(np.maximum(shares, _SMALLEST))

    def negative_log_likelihood(temperature: float) -> float:
        scaled = logs / temperature
        total = np.logaddexp.reduce(scaled, axis=1)
        return float((total - scaled[np.arange(len(truth)), truth]).mean())

    return best_temperature(negative_log_likelihood)


def _numbers(truth: Numbers, shares: Probabilities, names: Sequence[str]) -> dict[str, float]:
    counts = confusion(truth, shares.argmax(axis=1), len(names))
    present = counts.sum(axis=1)
    recall = np.append(np.diagonal(counts[:-1]), 0.0)[present > 0] / present[present > 0]
    return {
        "macro_f1": macro_f1(counts),
        **{f"f1_{name}": float(value) for name, value in zip(names, f1_of(counts), strict=True)},
        "accuracy": float((shares.argmax(axis=1) == truth).mean()),
        "balanced_accuracy": float(recall.mean()) if len(recall) else math.nan,
        "auroc": _auroc(truth, shares),
        "ece": calibration_error(truth, shares),
    }


def _auroc(truth: Numbers, shares: Probabilities) -> float:
    """Return the mean one-vs-rest AUROC of the classes that have positive and negative cases."""
    values = []
    for number in range(shares.shape[1]):
        one = truth == number
        if one.any() and not one.all():
            values.append(
                compute_roc_auc(torch.from_numpy(shares[:, number]), torch.from_numpy(one.astype(int)))
            )
    return float(np.mean(values)) if values else math.nan


def _by_patient(rows: Sequence[Row], names: Sequence[str]) -> tuple[Numbers, Probabilities]:
    truth, shares = arrays(rows, names)
    subjects = np.array([row["subject"] for row in rows])
    patients = sorted(set(subjects.tolist()))
    most = [Counter(truth[subjects == who].tolist()).most_common(1)[0][0] for who in patients]
    means = np.array([shares[subjects == who].mean(axis=0) for who in patients])
    return np.array(most, dtype=np.int64), means


def grades_of(probabilities: Mapping[str, float], truth: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a row that the metrics of grades read.

    Args:
        probabilities: of each grade; the most probable one is predicted.
        names: grades from the lowest to the highest.
    """
    order = list(names)
    predicted = max(order, key=lambda name: probabilities[name])
    return {"grade": order.index(truth), "predicted_grade": order.index(predicted), "grades": len(order)}


def quadratic_kappa(counts: Float[np.ndarray, "truth predicted"]) -> float:
    """Return Cohen's kappa with quadratic weights (Psychological Bulletin 1968).

    Returns:
        1 for perfect agreement, 0 for agreement by chance; NaN if all cases have one grade in both.
    """
    places = np.arange(len(counts))
    cost = (places[:, None] - places) ** 2
    total = counts.sum()
    by_chance = (cost * np.outer(counts.sum(axis=1), counts.sum(axis=0))).sum()
    return 1 - float((cost * counts).sum() * total / by_chance) if by_chance else math.nan


def grade_table(truth: Numbers, predicted: Numbers, grades: int) -> Float[np.ndarray, "truth predicted"]:
    """Return the number of cases of each true and predicted grade."""
    counts = np.zeros((grades, grades))
    np.add.at(counts, (truth, predicted), 1)
    return counts


def grade_arrays(rows: Sequence[Row]) -> tuple[Numbers, Numbers]:
    """Return the true and the predicted grade of each row."""
    values = np.array([(row["grade"], row["predicted_grade"]) for row in rows], dtype=np.int64)
    truth, predicted = values.reshape(-1, 2).T
    return truth, predicted


def ordinal_means(rows: Sequence[Row]) -> dict[str, float]:
    """Return quadratic kappa, the mean distance in grades, and the share of cases at most one grade off."""
    if not rows:
        return {}
    truth, predicted = grade_arrays(rows)
    distance = np.abs(truth - predicted)
    found = {
        "quadratic_kappa": quadratic_kappa(grade_table(truth, predicted, int(rows[0]["grades"]))),
        "mean_grade_error": float(distance.mean()),
        "within_one_grade": float((distance <= 1).mean()),
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}


def binned_error(
    predicted: Float[np.ndarray, " cases"],
    happened: Float[np.ndarray, " cases"],
    weights: Float[np.ndarray, " cases"],
) -> float:
    """Return the expected calibration error (Guo et al., ICML 2017), 15 equal bins; NaN without cases.

    Args:
        predicted: probability of the event, such as that the predicted class is right.
        happened: 1 where the event happened, otherwise 0.
        weights: of the cases.
    """
    bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights * (predicted - happened), minlength=_BINS)
    total = weights.sum()
    return float(np.abs(gaps).sum() / total) if total else math.nan


def calibration_error(truth: Numbers, shares: Probabilities) -> float:
    """Return the expected calibration error of the most probable class."""
    right = shares.argmax(axis=1) == truth
    return binned_error(shares.max(axis=1), right.astype(np.float64), np.ones(len(truth)))


def calibration_curve(truth: Numbers, shares: Probabilities, *, bins: int = 10) -> list[dict[str, str]]:
    """Return confidence and accuracy in bins with equally many cases (Nguyen and O'Connor, EMNLP 2015)."""
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == truth
    order = np.argsort(confidence, kind="stable")
    return [
        {
            "cases": str(len(part)),
            "confidence": f"{confidence[part].mean():.3f}",
            "accuracy": f"{right[part].mean():.3f}",
        }
        for part in np.array_split(order, min(bins, len(order)))
    ]


def best_temperature(loss: Callable[[float], float]) -> float:
    """Return the temperature, 0.2 to 5, with the lowest negative log likelihood (Guo et al., ICML 2017)."""
    low, high = map(math.log, _TEMPERATURES)
    found = minimize_scalar(lambda value: loss(math.exp(value)), bounds=(low, high), method="bounded")
    return round(math.exp(float(found.x)), 4)


def finite_mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
