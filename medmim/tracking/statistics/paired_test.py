"""The paired test of two arms over patients and training seeds, with the interval of their difference.

The interval is that of `seed_variance.py`, where a difference has twice the variance of one arm's seeds. A
sign-flip permutation test over patients (Fisher's) must agree with it; it assumes that the differences are
distributed symmetrically about their mean, which `skewness` checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

from medmim.tracking.statistics.power import detectable_difference
from medmim.tracking.statistics.seed_variance import CONFIDENCE, Scores, SeedVariance, half_width

LEVEL = 0.05
MIN_PATIENTS = 5  # below, no result is evidence
_EXACT_PATIENTS = 14  # up to here all 2^P sign flips are tried
_FLIPS = 20_000
_MAX_FLIPS = 200_000
_CHUNK = 20_000
_HALVINGS = 36

Flat = Float[np.ndarray, "pairs"]


@dataclass(frozen=True)
class PairedTest:
    """Result of the paired test: first arm minus second.

    Attributes:
        mean: difference over patients and seeds.
        low, high: 95 % confidence interval, over patients, and over seeds with `counts_seeds`.
        p: two-sided p value; the larger of the sign-flip test's and the one over patients and seeds.
        effect: mean / standard deviation over patients with Hedges' correction; 0 when all are equal.
        detectable: smallest true difference that this test finds with 80 % probability; infinite where no
            result could be evidence.
        skewness: of the patients' differences; far from 0, the sign-flip test's assumption fails.
        counts_seeds: whether the variance between seeds is known, if only from other arms than these two.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    detectable: float
    skewness: float
    patients: int
    seeds: int
    counts_seeds: bool = False

    def reversed(self) -> PairedTest:
        """Return the test of second minus first."""
        low, high, effect = -self.high, -self.low, -self.effect
        return replace(self, mean=-self.mean, low=low, high=high, effect=effect, skewness=-self.skewness)


def paired_tests(
    all_differences: Sequence[Scores], of_seeds: SeedVariance, *, levels: Sequence[float] | None = None
) -> list[PairedTest]:
    """Test pairs of arms."""
    by_patient = [np.round(found.mean(axis=0), 12) for found in all_differences]
    level = np.full(len(by_patient), LEVEL) if levels is None else np.asarray(levels, dtype=float)
    means = np.array([values.mean() for values in by_patient])
    df = np.array([len(values) - 1 for values in by_patient])
    variances = np.array([values.var(ddof=1) / len(values) for values in by_patient])
    seeds = np.array([found.shape[0] for found in all_differences])
    added = 2 * of_seeds.variance / seeds
    p_values = _crossed_p(np.abs(means), variances, added, df, of_seeds.df)
    half = half_width(np.full(len(means), (1 - CONFIDENCE) / 2), variances, added, df, of_seeds.df)
    for count in {len(values) for values in by_patient}:  # pairs with as many patients share the sign flips
        alike = [number for number, values in enumerate(by_patient) if len(values) == count]
        flipped = sign_flip_p(np.stack([by_patient[number] for number in alike]), level=float(level.min()))
        p_values[alike] = np.maximum(p_values[alike], flipped)
    return [
        PairedTest(
            mean=float(means[number]),
            low=float(means[number] - half[number]),
            high=float(means[number] + half[number]),
            p=float(p_values[number]),
            effect=_effect(values),
            detectable=detectable_difference(
                float(level[number]),
                float(variances[number]),
                patients=len(values),
                seeds=int(seeds[number]),
                of_seeds=of_seeds,
            ),
            skewness=float(stats.skew(values, bias=False)) if len(values) > 2 and np.ptp(values) > 0 else 0.0,
            patients=len(values),
            seeds=int(seeds[number]),
            counts_seeds=of_seeds.df > 0,
        )
        for number, values in enumerate(by_patient)
    ]


def sign_flip_p(values: Float[np.ndarray, "pairs patients"], *, level: float = LEVEL) -> Flat:
    """Return the two-sided p of each mean under random signs of its patients, exact for few patients.

    Otherwise there are enough flips for p values far below `level`. All pairs share them: scipy's
    permutation test, which draws them for every pair anew, would take minutes for a study's hundreds.
    """
    pairs, count = values.shape
    observed = np.abs(values.sum(axis=1))
    threshold = observed * (1 - 1e-6)  # equal sums in another order of addition count as equal
    if count <= _EXACT_PATIENTS:
        signs = 1 - 2 * ((np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1)
        exact: Flat = (np.abs(signs @ values.T) >= threshold).mean(axis=0)
        return exact
    flips = int(np.clip(20 / level, _FLIPS, _MAX_FLIPS))
    rng, hits = np.random.default_rng(0), np.zeros(pairs)
    for begun in range(0, flips, _CHUNK):
        signs = rng.integers(0, 2, size=(min(_CHUNK, flips - begun), count), dtype=np.int8) * 2 - 1
        hits += (np.abs(signs.astype(np.float32) @ values.T.astype(np.float32)) >= threshold).sum(axis=0)
    found: Flat = (hits + 1) / (flips + 1)
    return found


def _crossed_p(distances: Flat, variances: Flat, added: Flat, df: np.ndarray, seed_df: int) -> Flat:
    """Return the two-sided p at which the reach equals each mean's distance from 0, by bisection."""
    low, high = np.full(len(distances), -100.0), np.full(len(distances), np.log10(0.5))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = half_width(10**middle, variances, added, df, seed_df) > distances
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    p: Flat = np.where(distances > 0, np.minimum(2 * 10**high, 1.0), 1.0)
    return p


def _effect(values: Float[np.ndarray, "patients"]) -> float:
    spread = float(values.std(ddof=1))
    correction = 1 - 3 / (4 * len(values) - 5) if len(values) > 2 else 1.0
    return correction * float(values.mean()) / spread if spread > 1e-12 else 0.0
