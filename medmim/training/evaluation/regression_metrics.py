"""Metrics of predicted numbers over patients: errors, R², Spearman's ρ and limits of agreement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

Values = Float[np.ndarray, " patients"]
Row = Mapping[str, Any]

_LIMITS = 1.96  # standard deviations


def patient_values(rows: Sequence[Row], *, key: str = "subject") -> tuple[list[str], Values, Values]:
    """Return the patients, and the mean true and predicted number over the images of each.

    Args:
        rows: rows with `value`, `predicted` and the patient.
        key: name of the entry with the patient.
    """
    own: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        own.setdefault(str(row[key]), []).append((float(row["value"]), float(row["predicted"])))
    patients = sorted(own)
    means = np.array([np.mean(own[who], axis=0) for who in patients], dtype=np.float64).reshape(-1, 2)
    return patients, means[:, 0], means[:, 1]


def r2_of(truth: Values, predicted: Values, weights: Values) -> float:
    """Return the coefficient of determination; NaN if the weighted true numbers do not vary."""
    total = weights.sum()
    if not total:
        return math.nan
    mean = (weights * truth).sum() / total
    variation = float((weights * (truth - mean) ** 2).sum())
    return 1 - float((weights * (truth - predicted) ** 2).sum()) / variation if variation > 0 else math.nan


def regression_means(rows: Sequence[Row]) -> dict[str, float]:
    """Return MAE, RMSE, R², Spearman's ρ, bias and limits of agreement (Bland and Altman, Lancet 1986).

    Args:
        rows: rows with `value`, `predicted` and `subject`; numbers are averaged over the images of a patient.
    """
    if not rows:
        return {}
    _, truth, predicted = patient_values(rows)
    errors = predicted - truth
    found = {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "r2": r2_of(truth, predicted, np.ones(len(truth))),
        "spearman": _spearman(truth, predicted),
        "bias": float(errors.mean()),
    }
    if len(errors) > 1:
        low, high = limits_of_agreement(errors)
        found |= {"bias_lower_limit": low, "bias_upper_limit": high}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def limits_of_agreement(errors: Values) -> tuple[float, float]:
    """Return mean error ± 1.96 standard deviations."""
    reach = _LIMITS * float(errors.std(ddof=1))
    return float(errors.mean()) - reach, float(errors.mean()) + reach


def _spearman(truth: Values, predicted: Values) -> float:
    if min(len(np.unique(truth)), len(np.unique(predicted))) < 2:
        return math.nan
    return float(stats.spearmanr(truth, predicted).statistic)
