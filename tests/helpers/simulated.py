"""Simulated studies with a truth that tests know: patients, seeds and noise with given spreads."""

import math

import numpy as np

from medmim.data.dataset.contamination_certificate import NONE_FOUND
from medmim.tracking.comparison.runs import RunScores

ARMS = ("scratch", "random 0.5", "random 0.7", "mesh 0.5", "mesh 0.7")


def simulate(rng, *, gap=0.0, arms=ARMS, seeds=3, patients=27, luck=0.01, case=0.05, noise=0.05):
    """Runs of a study in which the last arm is truly `gap` above all others.

    luck: spread of an arm's training seeds; case: how differently arms suit patients; noise: the rest.
    """
    base = rng.normal(0.7, 0.15, patients)  # patients differ more than anything else
    runs = []
    for arm in arms:
        suited = base + rng.normal(0, case, patients) + (gap if arm == arms[-1] else 0.0)
        for seed in range(seeds):
            values = suited + rng.normal(0, luck) + rng.normal(0, noise, patients)
            runs.append(run(arm, values, seed=seed))
    return runs


def run(arm, values, *, seed=0, **tags):
    cases = tuple(
        {"patient": f"p{number:03d}", "label": "t", "dice": float(value), "hd95_mm": None}
        for number, value in enumerate(values)
    )
    tags = {"seed": str(seed), "lineage": f"pretraining of {arm}/{seed}", **tags}
    return RunScores(f"{arm}/{seed}", arm, tags, cases, contamination=NONE_FOUND)


def true_reach(quantiles, *, seeds=3, patients=27, luck=0.01, case=0.05, noise=0.05):
    """How far the difference of two arms strays: the sum of `quantiles` times its true standard error."""
    variance = 2 * (luck**2 / seeds + case**2 / patients + noise**2 / (seeds * patients))
    return sum(quantiles) * math.sqrt(variance)


def two_arms(differences, *, seeds=2):
    """Runs of a control and an arm whose patients differ by `differences` under every seed."""
    base = np.linspace(0.5, 0.8, len(differences))
    values = {"scratch": base, "a": base + np.asarray(differences)}
    luck = 1e-6  # of a seed: equal scores would be a copy
    return [run(arm, one + luck * seed, seed=seed) for arm, one in values.items() for seed in range(seeds)]
