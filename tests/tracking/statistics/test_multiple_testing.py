import pytest

from medmim.tracking.statistics.multiple_testing import adjusted, split_alpha


def test_equal_weights_are_plain_holm():
    # worked by hand: 0.01 × 4, 0.02 × 3, then the largest so far
    assert adjusted([0.03, 0.01, 0.04, 0.02], [1.0, 1.0, 1.0, 1.0]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_weights_shift_the_burden():
    # p / weight: 0.04 / 0.5 and 0.02 / 0.125; the first is multiplied by 1 / 0.5, then 0.5 / 0.125
    found = adjusted([0.04, 0.02, 0.9], [0.5, 0.125, 0.375])
    assert found == pytest.approx([0.08, 0.08, 0.9])


def test_never_above_one_nor_below_p():
    p_values = [0.2, 0.9, 0.5]
    for before, after in zip(p_values, adjusted(p_values, [0.2, 0.3, 0.5]), strict=True):
        assert before <= after <= 1


def test_nothing_to_adjust():
    assert adjusted([], []) == []


def test_halves():
    assert split_alpha(4, 6) == (0.125, pytest.approx(0.5 / 6))
    assert split_alpha(4, 0)[0] == 0.25
    assert split_alpha(0, 5)[1] == 0.2
