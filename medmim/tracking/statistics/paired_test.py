"""Is one arm above another? A paired test that allows for both chances: of patients and of training seeds.

Differences are laid out as (seeds, patients). Their mean is uncertain because other patients, and other
seeds, would have given another one. With S seeds and P patients, the variance of the mean is B + A / S: B is
that over patients (mean square between patients / SP), A is what one seed adds to it (mean square between
seeds less the residual one, / P, at least 0). A pair with one seed borrows A from those with several. Half
the interval is sqrt(t²(P-1) B + t²(df) A / S), each part with the quantile of its own degrees of freedom (as
in Graybill and Wang, JASA 75, 1980): a plain t test over patients takes the luck of two or three trainings
for evidence. A sign-flip permutation test over patients has to agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

LEVEL = 0.05
POWER = 0.8
_EXACT_PATIENTS = 14  # up to here all 2^P sign flips are tried
_FLIPS = 20_000
_MOST_FLIPS = 200_000
_CHUNK = 20_000
_HALVINGS = 60

Differences = Float[np.ndarray, "_seeds _patients"]  # pairs may differ in both
Flat = Float[np.ndarray, "pairs"]


@dataclass(frozen=True)
class SeedVariance:
    """What one seed adds to the variance of a mean difference.

    Attributes:
        variance: A above; 0 where nothing shows, or where no pair has several seeds.
        df: degrees of freedom that it was estimated with; 0 where no pair has several seeds.
    """

    variance: float
    df: int


@dataclass(frozen=True)
class Paired:
    """A paired difference, first arm minus second.

    Attributes:
        mean: over patients and seeds.
        low, high: 95 % interval.
        p: two-sided; the larger of the permutation's over patients and that over patients and seeds.
        effect: mean / standard deviation over patients, corrected for few of them (Hedges' g of the
            differences); 0 when all are equal.
        detectable: smallest true difference that this test finds with 80 % probability; infinite when no
            result of so few patients could be called evidence.
        patients, seeds: how many.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    detectable: float
    patients: int
    seeds: int

    def turned(self) -> Paired:
        """Return it as second minus first."""
        changed = {"mean": -self.mean, "low": -self.high, "high": -self.low, "effect": -self.effect}
        return replace(self, **changed)  # type: ignore[arg-type]


def shared_seed_variance(all_differences: list[Differences], *, arms: int) -> SeedVariance:
    """Estimate what seeds add, pooled over the pairs of an experiment: two seeds alone say next to nothing.

    Args:
        all_differences: of every pair of arms.
        arms: number of arms that the pairs with several seeds were made of.
    """
    several = [found for found in all_differences if found.shape[0] > 1]
    if not several:
        return SeedVariance(0.0, 0)
    seeds = min(found.shape[0] for found in several)
    return SeedVariance(
        max(float(np.mean([_seed_part(found) for found in several])), 0.0), (arms - 1) * (seeds - 1)
    )


def paired_tests(
    all_differences: list[Differences], luck: SeedVariance, *, level: float = LEVEL
) -> list[Paired]:
    """Test pairs of arms.

    Args:
        all_differences: one array (seeds, patients) a pair, at least two patients each.
        luck: what seeds add.
        level: at which a single one would have to be significant; for `detectable` and the number of flips.
    """
    by_patient = [np.round(found.mean(axis=0), 12) for found in all_differences]
    means = np.array([values.mean() for values in by_patient])
    patients = np.array([len(values) for values in by_patient])
    variances = np.array([values.var(ddof=1) / len(values) for values in by_patient])
    added = luck.variance / np.array([found.shape[0] for found in all_differences])
    crossed = _crossed_p(np.abs(means), variances, added, patients - 1, luck.df)
    half = _reach(np.full(len(means), LEVEL / 2), variances, added, patients - 1, luck.df)
    alone = np.full(len(means), level / 2)
    detectable = _reach(alone, variances, added, patients - 1, luck.df)
    detectable += _reach(np.full(len(means), 1 - POWER), variances, added, patients - 1, luck.df)
    p_values = np.maximum(crossed, _by_flips(by_patient, level))
    found = []
    for number, values in enumerate(by_patient):
        mean = float(means[number])
        possible = 2.0 ** (1 - len(values)) <= level  # the smallest p that flips of so few patients can give
        found.append(
            Paired(
                mean=mean,
                low=mean - float(half[number]),
                high=mean + float(half[number]),
                p=float(p_values[number]),
                effect=_effect(values),
                detectable=float(detectable[number]) if possible else float("inf"),
                patients=len(values),
                seeds=int(all_differences[number].shape[0]),
            )
        )
    return found


def sign_flip_p(values: Float[np.ndarray, "pairs patients"], *, level: float = LEVEL) -> Flat:
    """Return the two-sided p of each mean under random signs of its patients, exact for few patients.

    Otherwise there are enough flips for p values far below `level`; all pairs share them. Follows Fisher's
    randomisation test for paired differences.
    """
    pairs, count = values.shape
    observed = np.abs(values.sum(axis=1))
    slack = observed * (1 - 1e-6)  # equal sums in another order of addition count as equal
    if count <= _EXACT_PATIENTS:
        signs = 1 - 2 * ((np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1)
        exact: Flat = (np.abs(signs @ values.T) >= slack).mean(axis=0)
        return exact
    flips = int(np.clip(20 / level, _FLIPS, _MOST_FLIPS))
    rng, hits = np.random.default_rng(0), np.zeros(pairs)
    for begun in range(0, flips, _CHUNK):
        signs = rng.integers(0, 2, size=(min(_CHUNK, flips - begun), count), dtype=np.int8) * 2 - 1
        hits += (np.abs(signs.astype(np.float32) @ values.T.astype(np.float32)) >= slack).sum(axis=0)
    found: Flat = (hits + 1) / (flips + 1)
    return found


def _by_flips(by_patient: list[Float[np.ndarray, "_"]], level: float) -> Flat:
    """Return the permutation's p of each pair; those of as many patients are tried together."""
    found = np.ones(len(by_patient))
    for count in {len(values) for values in by_patient}:
        alike = [number for number, values in enumerate(by_patient) if len(values) == count]
        found[alike] = sign_flip_p(np.stack([by_patient[number] for number in alike]), level=level)
    return found


def _seed_part(differences: Differences) -> float:
    """Return A of one pair, before it is cut off at 0: what an estimate averages over must stay unbiased."""
    seeds, patients = differences.shape
    by_seed, by_patient = differences.mean(axis=1), differences.mean(axis=0)
    residual = differences - by_seed[:, None] - by_patient + differences.mean()
    between = patients * by_seed.var(ddof=1)
    within = (residual**2).sum() / ((seeds - 1) * max(patients - 1, 1))
    return float((between - within) / patients)


def _reach(tail: Flat, variances: Flat, added: Flat, df: np.ndarray, seed_df: int) -> Flat:
    """Return how far a mean strays with probability `tail` to one side."""
    of_seeds = stats.t.isf(tail, max(seed_df, 1)) ** 2 * added
    reach: Flat = np.sqrt(stats.t.isf(tail, df) ** 2 * variances + of_seeds)
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


def _effect(values: Float[np.ndarray, "patients"]) -> float:
    spread = float(values.std(ddof=1))
    correction = 1 - 3 / (4 * len(values) - 5) if len(values) > 2 else 1.0
    return correction * float(values.mean()) / spread if spread > 1e-12 else 0.0
