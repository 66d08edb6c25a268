"""Power of the paired test: the smallest true difference that it finds with 80 % probability.

The experiment is repeated in simulation: patients and seeds are drawn anew, and with them the estimated
variances that decide how large a difference must be. How many patients and seeds a study needs is in
`docs/results/study_power.json`, computed by `tests/benchmarks/study_power.py`.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from medmim.tracking.statistics.seed_variance import SeedVariance, half_width

POWER = 0.8
_SIMULATIONS = 4000


def detectable_difference(
    level: float, variance: float, *, patients: int, seeds: int, of_seeds: SeedVariance
) -> float:
    """Return the true difference that is evidence in 80 % of simulated repetitions of the experiment.

    Infinite where sign flips of so few patients cannot give a p value of `level`. The median of the estimated
    variance of seeds is below its mean and is corrected for that.

    Args:
        level: p value up to which a difference is evidence.
        variance: of the mean difference, from the patients.
        patients: patients that both arms have.
        seeds: training seeds that both arms have.
        of_seeds: variance that one seed adds to the mean of one arm; its default, 0, where no seed is
            repeated.
    """
    if 2.0 ** (1 - patients) > level:
        return float("inf")
    rng, df, seed_df = np.random.default_rng(0), patients - 1, max(of_seeds.df, 1)
    between = of_seeds.variance + of_seeds.noise
    true = max(between * seed_df / stats.chi2.median(seed_df) - of_seeds.noise, 0.0)
    true = true if of_seeds.variance else 0.0
    drawn = (true + of_seeds.noise) * rng.chisquare(seed_df, _SIMULATIONS) / seed_df - of_seeds.noise
    needed = half_width(
        np.array(level / 2),
        variance * rng.chisquare(df, _SIMULATIONS) / df,
        2 * np.maximum(drawn, 0.0) / seeds,
        np.array(df),
        of_seeds.df,
    )
    strayed = rng.normal(0, (variance + 2 * true / seeds) ** 0.5, _SIMULATIONS)
    return float(np.quantile(needed - strayed, POWER))
