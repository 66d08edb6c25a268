import numpy as np
import pytest
from scipy import stats

from medmim.tracking.statistics.paired_test import (
    SeedVariance,
    paired_tests,
    shared_seed_variance,
    sign_flip_p,
)

NO_LUCK = SeedVariance(0.0, 0)


def one(differences, luck=NO_LUCK, **words):
    return paired_tests([np.asarray(differences, dtype=float)], luck, **words)[0]


def test_one_seed_is_the_paired_t_test():
    values = np.random.default_rng(0).normal(0.02, 0.05, size=(1, 20))
    expected = stats.ttest_1samp(values[0], 0.0)
    found = one(values)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    flips = stats.permutation_test(
        (values[0],), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    assert found.p == pytest.approx(max(expected.pvalue, flips.pvalue), abs=0.01)


@pytest.mark.parametrize("count", [6, 10])
def test_sign_flips_are_exact_for_few_patients(count):
    values = np.random.default_rng(count).normal(0.03, 0.05, size=count)
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values[None])[0] == pytest.approx(expected.pvalue)


def test_pairs_share_flips_and_keep_their_own_p():
    values = np.random.default_rng(0).normal(0, 1, size=(3, 30)) + np.array([[0.0], [0.5], [5.0]])
    together = sign_flip_p(values)
    assert together.tolist() == [sign_flip_p(row[None])[0] for row in values]
    assert together[2] < together[1] < together[0]


def test_luck_of_seeds_widens_the_interval():
    rng = np.random.default_rng(0)
    patients = rng.normal(0.03, 0.02, size=(1, 25)) + rng.normal(0, 0.001, size=(3, 25))
    lucky = patients + np.array([[-0.05], [0.0], [0.05]])
    calm, wild = [shared_seed_variance([found], arms=2) for found in (patients, lucky)]
    assert calm.variance < 1e-5 < wild.variance
    assert wild.df == 2
    assert one(patients, calm).p < 0.001
    assert one(lucky, wild).p > 0.05
    assert one(lucky, wild).mean == pytest.approx(one(patients, calm).mean)


def test_luck_is_the_anova_estimate():
    values = np.random.default_rng(3).normal(size=(4, 9))
    seeds, patients = values.shape
    between = patients * ((values.mean(axis=1) - values.mean()) ** 2).sum() / (seeds - 1)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
    within = (rest**2).sum() / ((seeds - 1) * (patients - 1))
    assert shared_seed_variance([values], arms=2).variance == pytest.approx(
        max(between - within, 0) / patients
    )


def test_a_pair_with_one_seed_borrows_the_luck_of_the_others():
    rng = np.random.default_rng(0)
    single = rng.normal(0.03, 0.02, size=(1, 25))
    wild = rng.normal(0, 0.02, size=(3, 25)) + np.array([[-0.05], [0.0], [0.05]])
    luck = shared_seed_variance([single, wild], arms=3)
    assert luck.df == 4
    assert one(single).p < 0.001
    assert one(single, luck).p > 0.05


def test_no_difference_is_no_evidence():
    found = one(np.zeros((2, 8)))
    assert (found.mean, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)


def test_equal_sums_in_another_order_are_equal():
    assert one(np.full((1, 6), 0.1)).p == pytest.approx(2 / 2**6)


def test_effect_is_corrected_for_few_patients():
    values = np.random.default_rng(0).normal(0.5, 1, size=(1, 10))
    plain = values.mean() / values.std(ddof=1)
    assert one(values).effect == pytest.approx(plain * (1 - 3 / (4 * 10 - 5)))


def test_four_patients_can_show_nothing():
    assert one(np.random.default_rng(0).normal(size=(1, 4))).detectable == float("inf")


def test_what_is_detectable_is_found_four_times_in_five():
    rng, spread, count = np.random.default_rng(0), 0.05, 30
    detectable = np.median([one(rng.normal(0, spread, size=(1, count))).detectable for _ in range(50)])
    hits = [one(rng.normal(detectable, spread, size=(1, count))).p <= 0.05 for _ in range(300)]
    assert 0.72 < np.mean(hits) < 0.88
