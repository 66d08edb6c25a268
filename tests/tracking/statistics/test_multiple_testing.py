import pytest

from medmim.tracking.statistics.multiple_testing import adjusted, share_alpha, spent_alpha


def test_equal_weights_give_plain_holm():
    # worked by hand: 0.01 × 4, 0.02 × 3, then the largest so far
    assert adjusted([0.03, 0.01, 0.04, 0.02], [1.0, 1.0, 1.0, 1.0]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_weights_divide_the_error_rate():
    # p / weight: 0.04 / 0.5 and 0.02 / 0.125; the first is multiplied by 1 / 0.5, then 0.5 / 0.125
    found = adjusted([0.04, 0.02, 0.9], [0.5, 0.125, 0.375])
    assert found == pytest.approx([0.08, 0.08, 0.9])


def test_adjusted_p_values_lie_between_p_and_one():
    p_values = [0.2, 0.9, 0.5]
    for before, after in zip(p_values, adjusted(p_values, [0.2, 0.3, 0.5]), strict=True):
        assert before <= after <= 1


def test_no_tests_need_no_adjustment():
    assert adjusted([], []) == []
    assert share_alpha([]) == []


def test_questions_share_the_error_rate():
    assert share_alpha(["control", "control", "best"]) == pytest.approx([0.25, 0.25, 0.5])
    assert share_alpha(["control", "best", "evenness"]) == pytest.approx([0.45, 0.45, 0.1])
    assert share_alpha(["control"] * 4) == pytest.approx([0.25] * 4)


def test_all_challenges_of_a_test_set_spend_no_more_than_the_level():
    spent = [spent_alpha(number, level=0.05) for number in range(1, 1001)]
    assert spent[:2] == pytest.approx([0.025, 0.05 / 6])
    assert sum(spent) < 0.05
