"""Metrics of classes that do not exclude each other: AUROC and F1 of each class over its known cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.metrics import precision_recall_curve

Row = Mapping[str, Any]
Weights = Float[np.ndarray, " cases"]
Column = Float[np.ndarray, " cases"]

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

    Classes without a positive case have no score and are left out of the means.
    """
    auroc = {name: one.auroc(weights) for name, one in columns.items()}
    f1 = {name: one.f1(weights) for name, one in columns.items()}
    found = {"macro_auroc": _mean(auroc), "macro_f1": _mean(f1)}
    for name, one in columns.items():
        positives, negatives = one.counts(weights)
        found |= {f"auroc_{name}": auroc[name], f"f1_{name}": f1[name]}
        found |= {f"positives_{name}": positives, f"negatives_{name}": negatives}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def best_threshold(column: LabelColumn) -> float:
    """Return the threshold with the highest F1 over known cases; `THRESHOLD` without both kinds of cases."""
    known = np.isfinite(column.truth)
    if not all(column.counts(np.ones(len(known)))):
        return THRESHOLD
    precision, recall, thresholds = precision_recall_curve(column.truth[known], column.shares[known])
    scores = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return round(float(thresholds[int(scores[:-1].argmax())]), 6)


def _mean(values: Mapping[str, float]) -> float:
    known = [value for value in values.values() if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
