"""Hypothesis of the mesh paper: do masks that spread evenly give encoders with higher scores?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from medmim.tracking.statistics.paired_test import LEVEL

MIN_MASKS = 5  # the 24 orders of four masks cannot give a p value below 0.05
_PAIRINGS = 9999


@dataclass(frozen=True)
class MaskEvenness:
    """Rank correlation of evenness and mean score over masks.

    Attributes:
        rho: Spearman's; above 0 where even masks score higher.
        p: two-sided, by permutation of the masks; after `adjusted_to` it allows for all comparisons.
    """

    rho: float
    p: float
    masks: int
    arms: int
    sentence: str

    def adjusted_to(self, p: float) -> MaskEvenness:
        """Return it with the p value that allows for all comparisons, and the sentence for that."""
        shown = "evidence of a correlation" if p <= LEVEL else "no evidence of a correlation"
        return replace(self, p=p, sentence=f"{self.sentence}, adjusted p {p:.3f}: {shown}")


def unevenness(density_variance: float, ratio: float) -> float:
    """Return the variance of local density relative to that of independent cells at the same ratio.

    Without the division the ratio itself would count as evenness: r(1-r) is largest at one half.
    """
    return density_variance / (ratio * (1 - ratio))


def evenness_and_score(
    masks: Sequence[str], unevennesses: Sequence[float], scores: Sequence[float], *, stratum: str = ""
) -> MaskEvenness | None:
    """Correlate evenness with score (arXiv 2505.08819); None for too few masks or no spread.

    Arms of one mask are not independent, so each mask counts once, with the means over its arms.
    """
    names = sorted(set(masks))
    if len(names) < MIN_MASKS:
        return None
    rows = np.array([[mask == name for mask in masks] for name in names], dtype=float)
    rows /= rows.sum(axis=1, keepdims=True)
    even, score = -rows @ np.asarray(unevennesses, dtype=float), rows @ np.asarray(scores, dtype=float)
    if np.ptp(even) == 0 or np.ptp(score) == 0:
        return None
    ranks, score_ranks = (stats.rankdata(values) - (len(names) + 1) / 2 for values in (even, score))
    result = stats.permutation_test(
        (ranks,),
        lambda ranks, axis: (ranks * score_ranks).sum(axis=axis),  # in proportion to Spearman's rho
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_PAIRINGS,
        rng=np.random.default_rng(0),
    )
    rho = float(stats.spearmanr(even, score).statistic)
    where = f"{stratum}: " if stratum else ""
    counts = f"{len(names)} masks ({len(masks)} arms)"
    sentence = f"{where}mask evenness and score over {counts}: Spearman's rho {rho:+.2f}"
    return MaskEvenness(rho, float(result.pvalue), len(names), len(masks), sentence)
