"""Paired comparison of two arms: the mean difference over patients and its bootstrap interval (scipy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

_DRAWS = 2000


def two_way_interval(
    values: Float[np.ndarray, "seeds patients"], *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval of the mean under resampling of seeds and of patients.

    Every patient is tested under every seed, so rows and columns are drawn independently (the pigeonhole
    bootstrap of Owen, Ann. Appl. Stat. 1, 2007, which errs on the wide side). With one seed it covers
    patients only. The drawing is seeded: equal values, equal interval.

    Args:
        values: scores; NaN where a seed was not tested on a patient.
        confidence: share of the draws inside.
    """
    seeds, patients = values.shape
    rng = np.random.default_rng(0)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=_DRAWS).astype(float)
    columns = rng.multinomial(patients, np.full(patients, 1 / patients), size=_DRAWS).astype(float)
    known = np.isfinite(values)
    sums = ((rows @ np.where(known, values, 0.0)) * columns).sum(axis=1)
    counts = ((rows @ known.astype(float)) * columns).sum(axis=1)
    means = sums[counts > 0] / counts[counts > 0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


CONFIDENCE = 0.95
FEWEST_PATIENTS = 5
_RESAMPLES = 9999
_FEWER_RESAMPLES = 1999  # of a statistic that is computed anew for every one


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Attributes:
        mean: of the values.
        low, high: bounds of the 95 % bootstrap interval; equal to the mean when all values are.
        sd: sample standard deviation of values, 0 for one; of a statistic its bootstrap standard error.
        n: number of values, or of patients.
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


def estimate_statistic(statistic: Callable[[np.ndarray], float], patients: int) -> Estimate:
    """Return a statistic of all patients with a percentile bootstrap interval.

    Resamples in which it has no value, such as those without any true box, are left out.

    Args:
        statistic: from how often each patient was drawn to the value; NaN where it has none.
        patients: their number.
    """
    value = statistic(np.ones(patients))
    rng = np.random.default_rng(0)
    draws = rng.multinomial(patients, np.full(patients, 1 / patients), size=_FEWER_RESAMPLES)
    values = np.array([statistic(weights.astype(np.float64)) for weights in draws])
    values = np.round(values[np.isfinite(values)], 12)
    if patients < 2 or len(values) < 2:
        return Estimate(value, value, value, 0.0, patients)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), float(values.std(ddof=1)), patients)


def verdict(first: str, second: str, difference: Estimate, *, metric: str = "Dice") -> str:
    """Say in one sentence what a paired difference (first minus second, in the metric) shows, or does not."""
    points = 100 * difference.mean
    side = "above" if points >= 0 else "below"
    sentence = (
        f"{first} {side} {second} by {abs(points):.1f} points of {metric}, {CONFIDENCE:.0%} interval "
        f"{100 * difference.low:+.1f} … {100 * difference.high:+.1f} over {difference.n} patients: "
    )
    if difference.n < FEWEST_PATIENTS:
        return sentence + f"too few patients to say (at least {FEWEST_PATIENTS} are needed)"
    if not difference.excludes_zero():
        return sentence + "no evidence of a gain"
    return sentence + ("evidence of a gain" if difference.mean > 0 else "evidence of a loss")
