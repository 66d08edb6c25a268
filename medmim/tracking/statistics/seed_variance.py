"""Variance that training seeds add to a mean, and the confidence interval of a mean over patients and seeds.

Scores are arrays of shape (seeds, patients). A mean over both is uncertain because other patients, and other
seeds, would have given another one. With S seeds and P patients its variance is B + A / S: B is the share of
the patients (mean square between patients / SP), A that of one seed. A is pooled over the arms of an
experiment (mean square between seeds minus the residual one, / P, at least 0), because two or three seeds of
one arm carry little information about it. Half of the interval is sqrt(t²(P-1) B + t²(df) A / S), each part
with the quantile of its own degrees of freedom (Graybill and Wang, JASA 75, 1980).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

CONFIDENCE = 0.95

Scores = Float[np.ndarray, "_seeds _patients"]  # arms may differ in both
Numbers = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class SeedVariance:
    """Variance that one training seed adds to the mean of one arm.

    Attributes:
        variance: A of the module's docstring, at least 0.
        df: degrees of freedom of its estimate; 0 where no arm has several seeds.
        noise: variance of the mean of one seed that other causes have.
    """

    variance: float = 0.0
    df: int = 0
    noise: float = 0.0


def seed_variance(arms: Sequence[Scores]) -> SeedVariance:
    """Estimate what seeds add, pooled over arms; patients that a seed of the arm lacks are left out."""
    parts, noises, dfs = [], [], []
    for scores in arms:
        known = scores[:, np.isfinite(scores).all(axis=0)]
        seeds, patients = known.shape
        if seeds < 2 or patients < 2:
            continue
        by_seed, by_patient = known.mean(axis=1), known.mean(axis=0)
        residual = known - by_seed[:, None] - by_patient + known.mean()
        noises.append((residual**2).sum() / ((seeds - 1) * (patients - 1) * patients))
        parts.append(by_seed.var(ddof=1) - noises[-1])
        dfs.append(seeds - 1)
    if not dfs:
        return SeedVariance()
    variance, noise = np.average([parts, noises], axis=1, weights=dfs)
    return SeedVariance(max(float(variance), 0.0), sum(dfs), float(noise))


def mean_interval(scores: Scores, of_seeds: SeedVariance) -> tuple[float, float] | None:
    """Return the 95 % interval of an arm's mean over patients and seeds; None for one patient."""
    seeds, patients = scores.shape
    if patients < 2:
        return None
    by_patient = np.nanmean(scores, axis=0)
    variance = np.array([by_patient.var(ddof=1) / patients])
    added = np.array([of_seeds.variance / seeds])
    half = half_width(
        np.array([(1 - CONFIDENCE) / 2]), variance, added, np.array([patients - 1]), of_seeds.df
    )
    return float(by_patient.mean() - half[0]), float(by_patient.mean() + half[0])


def half_width(tail: Numbers, variances: Numbers, added: Numbers, df: np.ndarray, seed_df: int) -> Numbers:
    """Return how far a mean deviates from the true one with probability `tail` to one side."""
    of_seeds = special.stdtrit(max(seed_df, 1), tail) ** 2 * added  # as stats.t.isf, at a third of the time
    reach: Numbers = np.sqrt(special.stdtrit(df, tail) ** 2 * variances + of_seeds)
    return reach
