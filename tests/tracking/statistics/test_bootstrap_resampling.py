import numpy as np
import pytest
from scipy import stats

from medmim.tracking.statistics.bootstrap import two_way_interval


def test_one_seed_is_the_bootstrap_over_patients():
    values = np.random.default_rng(0).normal(0.7, 0.1, size=(1, 30))
    expected = stats.bootstrap(
        (values[0],), np.mean, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert two_way_interval(values) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_seeds_that_disagree_widen_it():
    values = np.random.default_rng(0).normal(0.7, 0.02, size=(3, 30))
    low, high = two_way_interval(values)
    wide_low, wide_high = two_way_interval(values + np.array([[-0.1], [0.0], [0.1]]))
    assert wide_high - wide_low > 3 * (high - low)


def test_equal_values_equal_interval():
    values = np.random.default_rng(0).normal(size=(2, 9))
    assert two_way_interval(values) == two_way_interval(values.copy())


def test_a_fold_that_was_not_run_is_left_out():
    values = np.random.default_rng(0).normal(0.7, 0.1, size=(2, 40))
    missing = values.copy()
    missing[1, 20:] = np.nan
    low, high = two_way_interval(missing)
    assert low < np.nanmean(missing) < high
