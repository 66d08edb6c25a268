"""95 % confidence intervals of test metrics by a bootstrap over patients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

Weights = Float[np.ndarray, " patients"]
Statistic = Callable[[Weights], dict[str, float]]

_DRAWS = 500
_TAILS = (0.025, 0.975)


def intervals(statistic: Statistic, patients: int) -> list[dict[str, Any]]:
    """Return a row with `metric`, `value`, `low`, `high` and `patients` for each metric.

    Patients are resampled with all of their cases. Undefined metrics are omitted, and so are resamples in
    which a metric is undefined. With one patient, `low` and `high` are None.

    Args:
        statistic: computes the metrics from the multiplicity of each patient.
        patients: number of patients.
    """
    if not patients:
        return []
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=_DRAWS)
    distinct, times = np.unique(drawn, axis=0, return_counts=True)
    found = [statistic(weights.astype(np.float64)) for weights in distinct]
    rows = []
    known = {key: value for key, value in statistic(np.ones(patients)).items() if math.isfinite(value)}
    for key, value in known.items():
        values = np.repeat([means.get(key, math.nan) for means in found], times)
        values = values[np.isfinite(values)]
        ends = np.quantile(values, _TAILS).tolist() if patients > 1 and len(values) else [None, None]
        rows.append({"metric": key, "value": value, "low": ends[0], "high": ends[1], "patients": patients})
    return rows
