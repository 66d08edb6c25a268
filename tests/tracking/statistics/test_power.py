import numpy as np

from medmim.tracking.statistics.paired_test import paired_tests
from medmim.tracking.statistics.seed_variance import SeedVariance


def one(differences):
    return paired_tests([np.asarray(differences, dtype=float)], SeedVariance())[0]


def test_four_patients_cannot_be_evidence():
    assert one(np.random.default_rng(0).normal(size=(1, 4))).detectable == float("inf")


def test_a_detectable_effect_is_found_with_80_percent_probability():
    rng, spread, count = np.random.default_rng(0), 0.05, 30
    detectable = np.median([one(rng.normal(0, spread, size=(1, count))).detectable for _ in range(50)])
    hits = [one(rng.normal(detectable, spread, size=(1, count))).p <= 0.05 for _ in range(300)]
    assert 0.74 < np.mean(hits) < 0.86
