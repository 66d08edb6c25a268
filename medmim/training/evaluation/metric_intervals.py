"""95 % confidence intervals of the test metrics of one run, over patients.

The standard error of a metric is the jackknife's, with one patient left out at a time. Means of patients'
scores (Dice, distances) have Student's t on a scale without bounds (logit for scores from 0 to 1, logarithm
for distances, which have no interval from fewer than six patients and else none beyond the patients' values).
Metrics of counts over all patients (accuracy, F1, average precision) have Wilson's interval of a proportion
(JASA 1927) with the effective number of patients that the standard error implies (Korn and Graubard, Survey
Methodology 1998). The degrees of freedom allow for heavy tails (Box, Biometrika 1953).
The AUROC of a class, or of two, has Newcombe's interval (Statistics in Medicine 25, 2006, part 2, method 5):
a standard error from a few patients of a rare class is too uncertain. `docs/results/metric_intervals.json`
shows how often the intervals cover the true value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

Weights = Float[np.ndarray, " patients"]
Statistic = Callable[[Weights], dict[str, float]]
Sizes = tuple[int, int]  # patients with a positive, and with a negative case of a class

_TAIL = 0.025
_COUNTS = ("positives_", "negatives_")  # of cases, without an interval
_UNIT = (0.0, 1.0)
_AUROC = ("auroc", "macro_auroc")
_BINOMIAL = ("accuracy", "balanced_accuracy", "within_one_grade", *_AUROC)
_OVER_CLASSES = (*_AUROC, "macro_f1", "balanced_accuracy")
_OF_CLASS = ("auroc_", "f1_")  # and its name
_OF_COUNTS = (*_BINOMIAL, "f1", "macro_f1", "ap50", "froc")  # of all patients, not their means
_MEANS = ("dice", "surface_dice", "lesion_")  # of patients
_FEWEST = 6  # patients; all of five are on one side of their median by chance in 2 / 2^5 = 6 % of test sets
_FAILED_SHARE = 0.5  # of the mean; a patient with less failed
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


def class_sizes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sizes]:
    """Return the sizes of each class, from rows of cases with probabilities of classes; else nothing."""
    members: dict[str, tuple[set[str], set[str]]] = {}
    for row in rows:
        if "probabilities" in row:
            labels = row.get("labels") or {name: name == row.get("class") for name in row["probabilities"]}
            for name, present in labels.items():
                members.setdefault(name, (set(), set()))[0 if present else 1].add(str(row["subject"]))
    return {name: (len(positive), len(negative)) for name, (positive, negative) in members.items()}


def intervals(
    statistic: Statistic, patients: int, sizes: Mapping[str, Sizes] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Return a row with `metric`, `value`, `low`, `high` and `patients` for each metric.

    A patient is left out with all of its cases. Undefined metrics are omitted. `low` and `high` are None
    where a metric is defined by one patient only.

    Args:
        sizes: of each class, for metrics of classes.
    """
    if not patients:
        return []
    without = [statistic(1.0 - row) for row in np.eye(patients)] if patients > 1 else []
    rows = []
    for key, value in statistic(np.ones(patients)).items():
        if math.isfinite(value):
            others = [] if key.startswith(_COUNTS) else [found.get(key, math.nan) for found in without]
            low, high = interval(key, value, others, _sizes_of(key, sizes)) or (None, None)
            rows.append({"metric": key, "value": value, "low": low, "high": high, "patients": patients})
            if low is not None and (share := unseen_failures(key, value, others)):
                rows[-1] |= {"unseen_failures": share, "low_with_failures": (1 - share) * low}
    return rows


def unseen_failures(key: str, value: float, without: Sequence[float]) -> float | None:
    """Return the share of patients who may fail although no test patient did (95 % bound).

    The interval of a mean cannot allow for an outcome that no test patient had. A patient failed whose score
    is below half of the mean; the scores follow from the values `without` each patient. With n patients and
    no failure the bound is 1 - 0.05^(1/n), about 3/n. None for metrics that are no means of patients'
    overlaps, and where a patient failed.
    """
    counted = [one for one in without if not math.isclose(one, value, rel_tol=0, abs_tol=1e-12)]
    scores = [len(counted) * value - (len(counted) - 1) * one for one in counted]
    if not key.startswith(_MEANS) or min(scores, default=0) < _FAILED_SHARE * value:
        return None
    return float(1 - (2 * _TAIL) ** (1 / len(scores))) if scores else None


def caveat(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the sentence about failures that no test patient shows, for the first row that they concern."""
    row = next((row for row in rows if "unseen_failures" in row), None)
    if row is None:
        return None
    return (
        f"no test patient is below half of the mean {row['metric']}; up to "
        f"{100 * row['unseen_failures']:.0f} % of patients may be (95 % bound), and the mean then as low as "
        f"{row['low_with_failures']:.2f}, which the interval leaves out"
    )


def _sizes_of(key: str, sizes: Mapping[str, Sizes]) -> list[Sizes]:
    """Return the sizes of the classes that a metric is about, where they have positive and negative cases."""
    plain = key.removeprefix("patient_")
    if plain in _OVER_CLASSES:
        return [one for one in sizes.values() if min(one) > 0]
    return [
        one for name, one in sizes.items() if plain in (f"{kind}{name}" for kind in _OF_CLASS) and min(one)
    ]


def interval(
    key: str, value: float, without: Sequence[float], sizes: Sequence[Sizes] = ()
) -> tuple[float, float] | None:
    """Return the interval of one metric, given its values `without` each patient; None if one defines it.

    Patients whose removal changes nothing, such as those without the class, are not counted. If all have the
    same score, the interval allows for a share of others, which have the worst or the best one: that of a
    proportion (Clopper and Pearson, Biometrika 26, 1934) of the patients, or of those with the rarest class.
    A metric with one bound, such as a distance, has none from fewer than six patients, and else ends at their
    lowest and highest value: on a logarithmic scale one outlier would reach beyond any image.

    Args:
        sizes: of the classes that the metric is about; an AUROC of one or two has Newcombe's interval.
    """
    found = np.asarray(without, dtype=np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        return None
    bounds = range_of(key)
    of_two_classes = len(sizes) == 1 or (len(sizes) == 2 and sizes[0] == sizes[1][::-1])
    if of_two_classes and key.removeprefix("patient_").startswith(_AUROC):
        return _lower_end(value, *sizes[0]), 1 - _lower_end(1 - value, *sizes[0])
    counted = found[~np.isclose(found, value, rtol=0, atol=1e-12)]
    unbounded = sum(map(math.isinf, bounds))  # ends of the range
    if len(counted) < (0, _FEWEST, 1)[unbounded]:
        return None
    if value in bounds or not len(counted):
        patients = min([len(found), *(positive for positive, _ in sizes)])
        others = 1 - _TAIL ** (1 / patients)
        return value - others * (value - bounds[0]), value + others * (bounds[1] - value)
    error = math.sqrt(((found - found.mean()) ** 2).sum() * (len(found) - 1) / len(found))
    freedom = _degrees_of_freedom(counted)
    binomial = key.removeprefix("patient_").startswith(_BINOMIAL)
    reach = float(stats.norm.isf(_TAIL) if binomial else stats.t.isf(_TAIL, freedom))
    if key.removeprefix("patient_").startswith(_OF_COUNTS) and error:
        return _wilson(value, value * (1 - value) / error**2, reach)
    low, high = _bounded(value, reach * error, *bounds)
    if unbounded == 1:  # no further than the patients' values, which follow where the metric is their mean
        scores = [value, *(len(counted) * value - (len(counted) - 1) * counted).tolist()]
        low, high = max(low, min(scores)), min(high, max(scores))
    return low, high


def _lower_end(auroc: float, positive: int, negative: int) -> float:
    """Return the lower end of Newcombe's interval: the AUROC whose error just reaches the found one."""
    if auroc <= 0:
        return 0.0

    def gap(true: float) -> float:
        spread = (1 - true) / (2 - true) + true / (1 + true)
        of_pairs = 1 + ((positive + negative) / 2 - 1) * spread
        error = math.sqrt(true * (1 - true) * of_pairs / (positive * negative))
        return auroc - true - float(stats.norm.isf(_TAIL)) * error

    return float(optimize.brentq(gap, 0.0, min(auroc, 1 - 1e-9)))


def _degrees_of_freedom(values: Float[np.ndarray, " patients"]) -> float:
    """Return n - 1, or 2n / (kurtosis + 2n / (n - 1)) where heavy tails make the standard error uncertain."""
    count = len(values)
    if count < 4 or np.ptp(values) == 0:
        return max(count - 1.0, 1.0)
    kurtosis = float(stats.kurtosis(values, bias=False))
    return 2 * count / (max(kurtosis, 0) + 2 * count / (count - 1))


def _wilson(value: float, patients: float, reach: float) -> tuple[float, float]:
    """Return Wilson's interval of a proportion; `reach` is the quantile."""
    weight = reach**2 / patients
    middle = (value + weight / 2) / (1 + weight)
    half = reach / (1 + weight) * math.sqrt(value * (1 - value) / patients + (weight / reach / 2) ** 2)
    return middle - half, middle + half


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
