"""How sure every number of a test is: its 95 % interval, from tests of patients drawn again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

Weights = Float[np.ndarray, " patients"]
Tally = Callable[[Weights], dict[str, float]]

_DRAWS = 500
_TAILS = (0.025, 0.975)


def intervals(tally: Tally, patients: int) -> list[dict[str, Any]]:
    """Return a row for each number: `metric`, `value`, `low`, `high` and how many `patients` were drawn from.

    A patient is drawn with all that it has. Numbers without a value are left out, and draws in which one has
    none. One patient tells nothing of others: `low` and `high` are None.

    Args:
        tally: from how often each patient counts to the numbers.
        patients: how many there are.
    """
    if not patients:
        return []
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=_DRAWS)
    distinct, times = np.unique(drawn, axis=0, return_counts=True)
    found = [tally(weights.astype(np.float64)) for weights in distinct]
    rows = []
    known = {key: value for key, value in tally(np.ones(patients)).items() if math.isfinite(value)}
    for key, value in known.items():
        values = np.repeat([means.get(key, math.nan) for means in found], times)
        values = values[np.isfinite(values)]
        ends = np.quantile(values, _TAILS).tolist() if patients > 1 and len(values) else [None, None]
        rows.append({"metric": key, "value": value, "low": ends[0], "high": ends[1], "patients": patients})
    return rows
