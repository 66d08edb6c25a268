import numpy as np
import pytest
from scipy import stats

from medmim.tracking.statistics.seed_variance import SeedVariance, mean_interval, seed_variance

NO_SEEDS = SeedVariance()


def test_the_variance_of_seeds_is_the_anova_estimate():
    values = np.random.default_rng(3).normal(size=(4, 9)) + np.arange(4)[:, None]
    seeds, patients = values.shape
    between = patients * ((values.mean(axis=1) - values.mean()) ** 2).sum() / (seeds - 1)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
    within = (rest**2).sum() / ((seeds - 1) * (patients - 1))
    assert seed_variance([values]).variance == pytest.approx((between - within) / patients)


def test_the_variance_of_seeds_is_pooled_over_arms_by_their_degrees_of_freedom():
    rng = np.random.default_rng(0)
    arms = [rng.normal(size=(count, 8)) + 5 * np.arange(count)[:, None] for count in (2, 4, 1)]
    parts = [seed_variance([arm]).variance for arm in arms[:2]]
    found = seed_variance(arms)
    assert found.df == 1 + 3
    assert found.variance == pytest.approx((parts[0] + 3 * parts[1]) / 4)


def test_without_repeated_seeds_nothing_is_known_of_them():
    assert seed_variance([np.zeros((1, 9))]) == NO_SEEDS


def test_patients_that_a_seed_lacks_do_not_count_for_the_variance_of_seeds():
    values = np.random.default_rng(0).normal(size=(2, 20))
    missing = np.hstack([values, [[0.5], [np.nan]]])
    assert seed_variance([missing]) == seed_variance([values])
    low, high = mean_interval(missing, NO_SEEDS)
    assert low < np.nanmean(missing, axis=0).mean() < high


def test_the_interval_of_one_seed_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(0.7, 0.1, size=(1, 12))
    expected = stats.ttest_1samp(values[0], 0.0).confidence_interval(0.95)
    assert mean_interval(values, NO_SEEDS) == pytest.approx((expected.low, expected.high))


def test_one_patient_has_no_interval():
    assert mean_interval(np.array([[0.5]]), NO_SEEDS) is None
