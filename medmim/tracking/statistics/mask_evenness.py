"""The mesh paper's hypothesis, measured: do masks that spread evenly give encoders that score higher?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST_ARMS = 5
_PAIRINGS = 9999


@dataclass(frozen=True)
class Hypothesis:
    """Rank correlation, over arms, of evenness and mean score.

    Attributes:
        rho: Spearman's; above 0 where evener masks score higher.
        p: two-sided, by permutation of the scores.
        arms: how many.
        sentence: what that shows.
    """

    rho: float
    p: float
    arms: int
    sentence: str


def unevenness(density_variance: float, ratio: float) -> float:
    """Return the variance of local density as a share of what independent cells would have at that ratio.

    Without the division the ratio itself would pass for evenness: r(1-r) is largest at one half.
    """
    return density_variance / (ratio * (1 - ratio))


def evenness_and_score(unevennesses: Sequence[float], scores: Sequence[float]) -> Hypothesis | None:
    """Correlate evenness with score over arms (arXiv 2505.08819); None for too few arms or no spread."""
    even, score = -np.asarray(unevennesses, dtype=float), np.asarray(scores, dtype=float)
    if len(even) < FEWEST_ARMS or np.ptp(even) == 0 or np.ptp(score) == 0:
        return None
    rho = float(stats.spearmanr(even, score).statistic)
    result = stats.permutation_test(
        (even,),
        lambda ranks: stats.spearmanr(ranks, score).statistic,
        permutation_type="pairings",
        n_resamples=_PAIRINGS,
        rng=np.random.default_rng(0),
    )
    p = float(result.pvalue)
    shown = "evidence that they go together" if p <= 0.05 else "no evidence that they go together"
    sentence = f"evenness of the mask and score over {len(even)} arms: rho {rho:+.2f}, p {p:.3f}: {shown}"
    return Hypothesis(rho, p, len(even), sentence)
