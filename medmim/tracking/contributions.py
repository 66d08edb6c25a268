"""What each test patient adds to a score, whatever the metric: the values that are paired and tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medmim.training.measures import Measure, measure_of


def contributions(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return one number a patient; their mean is the run's score.

    For Dice, a mean over patients, it is the patient's own. F1 and AP50 are of all patients together: the
    number is then the score plus how far it falls without the patient, times the other patients (the
    jackknife's pseudo-values of Tukey, centred on the score), so that means, intervals and tests over
    patients hold for them as well.
    """
    measure = measure_of(rows)
    if measure.is_mean:
        return _known(measure, measure.each)
    count = len(measure.patients)
    whole = measure.value(np.ones(count))
    without = np.array([measure.value(1.0 - row) for row in np.eye(count)], dtype=np.float64)
    falls = (count - 1) * (whole - without)
    known = np.isfinite(falls)
    return _known(measure, whole + falls - falls[known].mean()) if known.any() else {}


def alone(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the score of each patient alone, for pictures; those that have none are left out."""
    measure = measure_of(rows)
    return _known(measure, measure.each)


def _known(measure: Measure, values: np.ndarray) -> dict[str, float]:
    return {
        who: float(value) for who, value in zip(measure.patients, values, strict=True) if np.isfinite(value)
    }
