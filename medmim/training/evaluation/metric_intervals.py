"""95 % confidence intervals of the test metrics of one run, over patients.

The standard error of a metric is the jackknife's, with one patient left out at a time. The interval is
Student's t on a scale without bounds (logit for metrics from 0 to 1, logarithm for distances), so that it
stays inside the range of the metric. `docs/results/metric_intervals.json` shows how often it covers the true
value, and that percentiles of a bootstrap cover it more rarely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

Weights = Float[np.ndarray, " patients"]
Statistic = Callable[[Weights], dict[str, float]]

_TAIL = 0.025
_COUNTS = ("positives_", "negatives_")  # of cases, without an interval
_UNIT = (0.0, 1.0)
_RANGES = {  # of metrics that are not from 0 to 1, by the start of their names
    "hd95_mm": (0.0, math.inf),
    "mae": (0.0, math.inf),
    "rmse": (0.0, math.inf),
    "bias": (-math.inf, math.inf),
    "volume_error_ml": (-math.inf, math.inf),
    "r2": (-math.inf, 1.0),
    "spearman": (-1.0, 1.0),
    "quadratic_kappa": (-1.0, 1.0),
    "mean_grade_error": (0.0, math.inf),
}


def intervals(statistic: Statistic, patients: int) -> list[dict[str, Any]]:
    """Return a row with `metric`, `value`, `low`, `high` and `patients` for each metric.

    A patient is left out with all of its cases. Undefined metrics are omitted. `low` and `high` are None
    where a metric is defined by one patient only.
    """
    if not patients:
        return []
    without = [statistic(1.0 - row) for row in np.eye(patients)] if patients > 1 else []
    rows = []
    for key, value in statistic(np.ones(patients)).items():
        if math.isfinite(value):
            others = [] if key.startswith(_COUNTS) else [found.get(key, math.nan) for found in without]
            low, high = interval(key, value, others) or (None, None)
            rows.append({"metric": key, "value": value, "low": low, "high": high, "patients": patients})
    return rows


def interval(key: str, value: float, without: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of one metric, given its values `without` each patient; None if one defines it.

    Patients without whom nothing changes, such as those without the class, are not counted. If all have the
    worst or the best score, the interval is that of a proportion (Clopper and Pearson, Biometrika 26, 1934).
    """
    found = np.asarray(without, dtype=np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        return None
    bounds = range_of(key)
    if value in bounds:
        shortfall = (bounds[1] - bounds[0]) * (1 - _TAIL ** (1 / len(found)))
        if not math.isfinite(shortfall):
            return None
        return (value, value + shortfall) if value == bounds[0] else (value - shortfall, value)
    counted = int(np.count_nonzero(~np.isclose(found, value, rtol=0, atol=1e-12)))
    squares = ((found - found.mean()) ** 2).sum() * (len(found) - 1) / len(found)
    half = float(stats.t.isf(_TAIL, max(counted - 1, 1)) * math.sqrt(squares))
    return _bounded(value, half, *bounds)


def range_of(key: str) -> tuple[float, float]:
    """Return the lowest and the highest possible value of a metric."""
    plain = key.removeprefix("patient_")
    return next((ends for name, ends in _RANGES.items() if plain.startswith(name)), _UNIT)


def _bounded(value: float, half: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return the interval of a half-width, computed on a scale without the bounds and transformed back."""
    if not lowest < value < highest or (math.isinf(lowest) and math.isinf(highest)):
        return value - half, value + half
    if math.isinf(lowest):
        low, high = _bounded(-value, half, -highest, math.inf)
        return -high, -low
    if math.isinf(highest):
        factor = math.exp(half / (value - lowest))
        return lowest + (value - lowest) / factor, lowest + (value - lowest) * factor
    width, share = highest - lowest, (value - lowest) / (highest - lowest)
    logit, reach = math.log(share / (1 - share)), half / width / (share * (1 - share))
    low, high = (lowest + width / (1 + math.exp(-(logit + sign * reach))) for sign in (-1, 1))
    return low, high
