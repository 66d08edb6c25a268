import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.tracking.statistics.bootstrap import Estimate, estimate, verdict


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        found = estimate((rng.normal(0.03, 0.05, size=20)).tolist())
        inside += found.low <= 0.03 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_a_planted_gap_is_found():
    rng = np.random.default_rng(1)
    found = estimate((0.05 + rng.normal(0, 0.03, size=20)).tolist())
    assert found.excludes_zero()
    assert verdict("a", "b", found).endswith("evidence of a gain")
    assert "a above b by " in verdict("a", "b", found)


def test_a_planted_loss_is_found():
    rng = np.random.default_rng(1)
    sentence = verdict("a", "b", estimate((-0.05 + rng.normal(0, 0.03, size=20)).tolist()))
    assert sentence.startswith("a below b by ")
    assert sentence.endswith("evidence of a loss")


def test_without_a_gap_there_is_no_evidence():
    rng = np.random.default_rng(2)
    said = [verdict("a", "b", estimate(rng.normal(0, 0.05, size=12).tolist())) for _ in range(40)]
    assert sum(sentence.endswith("no evidence of a gain") for sentence in said) >= 34


def test_few_patients_are_too_few_however_large_the_gap():
    found = estimate([0.30, 0.31, 0.32, 0.33])
    assert found.excludes_zero()
    assert verdict("a", "b", found).endswith(
        "over 4 patients: too few patients to say (at least 5 are needed)"
    )


def test_numbers_are_in_points():
    sentence = verdict("a", "b", Estimate(0.0234, -0.01, 0.05, 0.1, 12))
    assert sentence.startswith(
        "a above b by 2.3 points of Dice, 95% interval -1.0 … +5.0 over 12 patients: no evidence"
    )


def test_equal_values_give_equal_intervals():
    values = [0.1, 0.4, 0.2, 0.35, 0.3]
    assert estimate(values) == estimate(list(values))


def test_mean_and_deviation_are_the_plain_ones():
    found = estimate([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3)
    assert found.sd == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1))
    assert found.n == 3


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3]])
def test_values_without_spread_have_a_point_for_an_interval(values):
    found = estimate(values)
    assert found.low == found.high == found.mean == pytest.approx(values[0])
    assert found.sd == 0


def test_arms_that_are_equal_show_no_gain():
    for values in ([0.0] * 6, [0.1 + 0.2 - 0.3] * 6, [0.1 + 0.2 - 0.3, *[0.0] * 5]):
        assert verdict("a", "b", estimate(values)).endswith("no evidence of a gain")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.51, 0.9, 1.0]), min_size=1, max_size=8))
def test_the_interval_holds_the_mean(values):
    found = estimate(values)
    assert all(map(math.isfinite, (found.mean, found.low, found.high, found.sd)))
    assert found.low <= found.mean <= found.high
