"""The paired test of two arms, and the confidence interval of a mean, over patients and training seeds.

Scores are arrays of shape (seeds, patients). A mean over both is uncertain because other patients, and other
seeds, would have given another one. With S seeds and P patients its variance is B + A / S: B is the share of
the patients (mean square between patients / SP), A that of one seed. A is pooled over the arms of an
experiment (mean square between seeds minus the residual one, / P, at least 0), because two or three seeds of
one arm say little about it; a difference of two arms has twice that share. Half of the interval is
sqrt(t²(P-1) B + t²(df) A / S), each part with the quantile of its own degrees of freedom (Graybill and Wang,
JASA 75, 1980). A sign-flip permutation test over patients (Fisher's) must agree with it; it assumes that the
differences are distributed symmetrically about their mean, which `skewness` checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import special, stats

LEVEL = 0.05
POWER = 0.8
CONFIDENCE = 0.95
MIN_PATIENTS = 5  # below, no result is evidence
_EXACT_PATIENTS = 14  # up to here all 2^P sign flips are tried
_FLIPS = 20_000
_MAX_FLIPS = 200_000
_CHUNK = 20_000
_HALVINGS = 36
_SIMULATIONS = 4000

Scores = Float[np.ndarray, "_seeds _patients"]  # arms may differ in both
Flat = Float[np.ndarray, "pairs"]
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


@dataclass(frozen=True)
class PairedTest:
    """Result of the paired test: first arm minus second.

    Attributes:
        mean: difference over patients and seeds.
        low, high: 95 % confidence interval; over patients only where there is one seed.
        p: two-sided p value; the larger of the sign-flip test's and the one over patients and seeds.
        effect: mean / standard deviation over patients with Hedges' correction; 0 when all are equal.
        detectable: smallest true difference that this test finds with 80 % probability; infinite where no
            result could be evidence.
        skewness: of the patients' differences; far from 0, the sign-flip test's assumption fails.
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

    def reversed(self) -> PairedTest:
        """Return the test of second minus first."""
        low, high, effect = -self.high, -self.low, -self.effect
        return replace(self, mean=-self.mean, low=low, high=high, effect=effect, skewness=-self.skewness)


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
    half = _reach(np.array([(1 - CONFIDENCE) / 2]), variance, added, np.array([patients - 1]), of_seeds.df)
    return float(by_patient.mean() - half[0]), float(by_patient.mean() + half[0])


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
    half = _reach(np.full(len(means), (1 - CONFIDENCE) / 2), variances, added, df, of_seeds.df)
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
            detectable=_detectable(
                float(level[number]), float(variances[number]), len(values), int(seeds[number]), of_seeds
            ),
            skewness=float(stats.skew(values, bias=False)) if len(values) > 2 and np.ptp(values) > 0 else 0.0,
            patients=len(values),
            seeds=int(seeds[number]),
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


def _reach(tail: Numbers, variances: Numbers, added: Numbers, df: np.ndarray, seed_df: int) -> Numbers:
    """Return how far a mean strays from the truth with probability `tail` to one side."""
    of_seeds = special.stdtrit(max(seed_df, 1), tail) ** 2 * added  # as stats.t.isf, at a third of the time
    reach: Numbers = np.sqrt(special.stdtrit(df, tail) ** 2 * variances + of_seeds)
    return reach


def _crossed_p(distances: Flat, variances: Flat, added: Flat, df: np.ndarray, seed_df: int) -> Flat:
    """Return the two-sided p at which the reach equals each mean's distance from 0, by bisection."""
    low, high = np.full(len(distances), -100.0), np.full(len(distances), np.log10(0.5))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = _reach(10**middle, variances, added, df, seed_df) > distances
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    p: Flat = np.where(distances > 0, np.minimum(2 * 10**high, 1.0), 1.0)
    return p


def _detectable(level: float, variance: float, patients: int, seeds: int, of_seeds: SeedVariance) -> float:
    """Return the true difference that is evidence in 80 % of simulated repetitions of the experiment.

    Infinite where sign flips of so few patients cannot give a p value of `level`. The median of the estimated
    variance of seeds is below its mean and is corrected for that.
    """
    if 2.0 ** (1 - patients) > level:
        return float("inf")
    rng, df, seed_df = np.random.default_rng(0), patients - 1, max(of_seeds.df, 1)
    between = of_seeds.variance + of_seeds.noise
    true = max(between * seed_df / stats.chi2.median(seed_df) - of_seeds.noise, 0.0)
    true = true if of_seeds.variance else 0.0
    drawn = (true + of_seeds.noise) * rng.chisquare(seed_df, _SIMULATIONS) / seed_df - of_seeds.noise
    needed = _reach(
        np.array(level / 2),
        variance * rng.chisquare(df, _SIMULATIONS) / df,
        2 * np.maximum(drawn, 0.0) / seeds,
        np.array(df),
        of_seeds.df,
    )
    strayed = rng.normal(0, (variance + 2 * true / seeds) ** 0.5, _SIMULATIONS)
    return float(np.quantile(needed - strayed, POWER))


def _effect(values: Float[np.ndarray, "patients"]) -> float:
    spread = float(values.std(ddof=1))
    correction = 1 - 3 / (4 * len(values) - 5) if len(values) > 2 else 1.0
    return correction * float(values.mean()) / spread if spread > 1e-12 else 0.0
