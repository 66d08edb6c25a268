"""Metrics of classes that do not exclude each other: AUROC and F1 of each class over its known cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.metrics import precision_recall_curve

from medmim.training.evaluation.classification_metrics import best_temperature, binned_error, finite_mean

Row = Mapping[str, Any]
Weights = Float[np.ndarray, " cases"]
Column = Float[np.ndarray, " cases"]

_SMALLEST = 1e-6  # distance of a probability from 0 and 1
THRESHOLD = 0.5  # probability above which a class is predicted, where validation chose none


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """True and predicted values of one class for every case.

    Attributes:
        truth: 1 present, 0 absent, NaN unknown.
        shares: predicted probability.
        found: whether the class is predicted.
    """

    truth: Column
    shares: Column
    found: Column

    def counts(self, weights: Weights) -> tuple[float, float]:
        """Return the weighted number of positive and of negative cases."""
        return float(weights[self.truth == 1].sum()), float(weights[self.truth == 0].sum())

    def auroc(self, weights: Weights) -> float:
        """Return the weighted AUROC, ties counted half; NaN without positive or negative cases."""
        positives, negatives = self.counts(weights)
        if not positives or not negatives:
            return math.nan
        _, place = np.unique(self.shares, return_inverse=True)
        right = np.bincount(place, weights * (self.truth == 1))
        wrong = np.bincount(place, weights * (self.truth == 0))
        return float((right * (wrong.cumsum() - wrong / 2)).sum() / (positives * negatives))

    def calibration_error(self, weights: Weights) -> float:
        """Return the weighted calibration error, see `binned_error`; NaN without known cases."""
        known = np.isfinite(self.truth)
        return binned_error(self.shares[known], self.truth[known], weights[known])

    def f1(self, weights: Weights) -> float:
        """Return the weighted F1; NaN without positive cases."""
        positives, _ = self.counts(weights)
        known = weights * np.isfinite(self.truth) * self.found
        hits = float(known[self.truth == 1].sum())
        return 2 * hits / (positives + float(known.sum())) if positives else math.nan


def columns_of(rows: Sequence[Row], names: Sequence[str]) -> dict[str, LabelColumn]:
    """Return the column of each class, from known `labels`, `probabilities` and predicted `found`."""
    columns = {}
    for name in names:
        values = [
            (row["labels"].get(name, math.nan), row["probabilities"][name], name in row["found"])
            for row in rows
        ]
        columns[name] = LabelColumn(*np.array(values, dtype=np.float64).reshape(-1, 3).T)
    return columns


def label_means(columns: Mapping[str, LabelColumn], weights: Weights) -> dict[str, float]:
    """Return AUROC, F1 and the number of positive and negative cases of each class, and the macro means.

    Classes without a positive case have no score and are left out of the means. `ece` is the mean calibration
    error of the classes with known cases.
    """
    auroc = {name: one.auroc(weights) for name, one in columns.items()}
    f1 = {name: one.f1(weights) for name, one in columns.items()}
    ece = {name: one.calibration_error(weights) for name, one in columns.items()}
    found = {
        "macro_auroc": finite_mean(auroc.values()),
        "macro_f1": finite_mean(f1.values()),
        "ece": finite_mean(ece.values()),
    }
    for name, one in columns.items():
        positives, negatives = one.counts(weights)
        found |= {f"auroc_{name}": auroc[name], f"f1_{name}": f1[name]}
        found |= {f"positives_{name}": positives, f"negatives_{name}": negatives}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def shared_temperature(columns: Mapping[str, LabelColumn]) -> float:
    """Return the maximum-likelihood temperature of all logits; 1 without known cases.

    Its order of cases, and so AUROC, does not change.
    """
    truth = np.concatenate([one.truth for one in columns.values()]) if columns else np.zeros(0)
    known = np.isfinite(truth)
    if not known.any():
        return 1.0
    shares = np.concatenate([one.shares for one in columns.values()])[known].clip(_SMALLEST, 1 - _SMALLEST)
    signed = np.where(truth[known] == 1, 1.0, -1.0) * (np.log(shares) - np.log1p(-shares))

    return best_temperature(lambda temperature: float(np.logaddexp(0, -signed / temperature).mean()))


def with_temperature(column: LabelColumn, temperature: float) -> LabelColumn:
    """Return a column whose logits are divided by a temperature."""
    shares = column.shares.clip(_SMALLEST, 1 - _SMALLEST)
    logits = (np.log(shares) - np.log1p(-shares)) / temperature
    return replace(column, shares=1 / (1 + np.exp(-logits)))


def best_threshold(column: LabelColumn) -> float:
    """Return the threshold with the highest F1 over known cases; `THRESHOLD` without both kinds of cases."""
    known = np.isfinite(column.truth)
    if not all(column.counts(np.ones(len(known)))):
        return THRESHOLD
    precision, recall, thresholds = precision_recall_curve(column.truth[known], column.shares[known])
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = float(thresholds[int(scores[:-1].argmax())])
    return max(round(best - _SMALLEST, 6), 0.0)  # rounding must not exclude the case with this score
