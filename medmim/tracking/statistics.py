"""Paired comparison of two arms: the mean difference over patients and its bootstrap interval (scipy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST_PATIENTS = 5
_RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Attributes:
        mean: of the values.
        low, high: bounds of the 95 % bootstrap interval; equal to the mean when all values are.
        sd: sample standard deviation; 0 for one value.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int

    def excludes_zero(self) -> bool:
        """Return whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of one value a patient, with a bias-corrected bootstrap interval.

    The resampling is seeded: equal values, equal interval.
    """
    # what sums leave behind the twelfth digit is no difference between two arms
    array = np.round(np.asarray(values, dtype=float), 12)
    mean = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0:
        return Estimate(mean, mean, mean, 0.0, len(array))
    result = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(0),
    )
    interval = result.confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), float(array.std(ddof=1)), len(array))


def verdict(first: str, second: str, difference: Estimate) -> str:
    """Say in one sentence what a paired difference (first minus second, in Dice) shows, or does not."""
    points = 100 * difference.mean
    side = "above" if points >= 0 else "below"
    sentence = (
        f"{first} {side} {second} by {abs(points):.1f} points of Dice, {CONFIDENCE:.0%} interval "
        f"{100 * difference.low:+.1f} … {100 * difference.high:+.1f} over {difference.n} patients: "
    )
    if difference.n < FEWEST_PATIENTS:
        return sentence + f"too few patients to say (at least {FEWEST_PATIENTS} are needed)"
    if not difference.excludes_zero():
        return sentence + "no evidence of a gain"
    return sentence + ("evidence of a gain" if difference.mean > 0 else "evidence of a loss")
