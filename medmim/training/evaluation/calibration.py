"""Calibration of probabilities: error and curve in bins, and the temperature of logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar

_BINS = 15
_TEMPERATURES = (0.2, 5.0)


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


def calibration_error(truth: Int[np.ndarray, " cases"], shares: Float[np.ndarray, "cases classes"]) -> float:
    """Return the expected calibration error of the most probable class."""
    right = shares.argmax(axis=1) == truth
    return binned_error(shares.max(axis=1), right.astype(np.float64), np.ones(len(truth)))


def calibration_curve(
    truth: Int[np.ndarray, " cases"], shares: Float[np.ndarray, "cases classes"], *, bins: int = 10
) -> list[dict[str, str]]:
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
