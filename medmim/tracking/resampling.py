"""The interval of one arm: seeds and patients drawn again and again, both at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

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
