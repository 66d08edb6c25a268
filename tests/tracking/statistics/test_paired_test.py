import numpy as np
import pytest
from scipy import stats

from medmim.tracking.statistics.paired_test import paired_tests, sign_flip_p
from medmim.tracking.statistics.seed_variance import SeedVariance, mean_interval, seed_variance

NO_SEEDS = SeedVariance()


def one(differences, of_seeds=NO_SEEDS, **words):
    return paired_tests([np.asarray(differences, dtype=float)], of_seeds, **words)[0]


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


def test_pairs_share_sign_flips_and_keep_their_own_p():
    values = np.random.default_rng(0).normal(0, 1, size=(3, 30)) + np.array([[0.0], [0.5], [5.0]])
    together = sign_flip_p(values)
    assert together.tolist() == [sign_flip_p(row[None])[0] for row in values]
    assert together[2] < together[1] < together[0]


def arms_with(spread, *, patients=25):
    """Two arms whose three seeds are `spread` apart."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.6, 0.1, size=(1, patients))
    seeds = np.array([[-spread], [0.0], [spread]])
    first = base + 0.03 + rng.normal(0, 0.01, size=(3, patients)) + seeds
    return first, base + rng.normal(0, 0.01, size=(3, patients)) + seeds[::-1]


def test_seeds_that_disagree_widen_the_interval():
    calm, wild = arms_with(0.001), arms_with(0.05)
    variances = [seed_variance(arms) for arms in (calm, wild)]
    assert variances[0].variance < 1e-5 < variances[1].variance
    assert variances[1].df == 4
    tests = [one(arms[0] - arms[1], found) for arms, found in zip((calm, wild), variances, strict=True)]
    assert tests[0].p < 0.001
    assert tests[1].p > 0.05
    low, high = mean_interval(calm[0], variances[0])
    wide_low, wide_high = mean_interval(wild[0], variances[1])
    assert wide_high - wide_low > 2 * (high - low)


def test_a_reversed_test_changes_all_signs():
    found = one(np.random.default_rng(0).normal(0.02, 0.05, size=(1, 20)))
    turned = found.reversed()
    assert (turned.mean, turned.low, turned.high) == (-found.mean, -found.high, -found.low)
    assert (turned.effect, turned.skewness, turned.p) == (-found.effect, -found.skewness, found.p)


def test_skewness_is_that_of_the_patients():
    assert one([[0.0] * 11 + [1.0]]).skewness == pytest.approx(stats.skew([0.0] * 11 + [1.0], bias=False))


def test_no_difference_is_no_evidence():
    found = one(np.zeros((2, 8)))
    assert (found.mean, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)


def test_equal_sums_in_another_order_of_addition_are_equal():
    assert one(np.full((1, 6), 0.1)).p == pytest.approx(2 / 2**6)


def test_effect_is_corrected_for_few_patients():
    values = np.random.default_rng(0).normal(0.5, 1, size=(1, 10))
    plain = values.mean() / values.std(ddof=1)
    assert one(values).effect == pytest.approx(plain * (1 - 3 / (4 * 10 - 5)))
