import pytest

from medmim.tracking.statistics.mask_evenness import evenness_and_score, unevenness


def test_independent_cells_have_an_unevenness_of_one_at_every_ratio():
    assert [unevenness(ratio * (1 - ratio), ratio) for ratio in (0.3, 0.9)] == pytest.approx([1, 1])


def test_evener_masks_that_score_higher_correlate():
    found = evenness_and_score([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert found.rho == pytest.approx(1)
    assert found.p < 0.01
    assert found.sentence.startswith("evenness of the mask and score over 7 arms: rho +1.00, p 0.0")
    assert found.sentence.endswith("evidence that they go together")


def test_no_order_is_no_evidence():
    found = evenness_and_score([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.5, 0.8, 0.3, 0.7, 0.4, 0.6])
    assert found.sentence.endswith("no evidence that they go together")


@pytest.mark.parametrize(
    ("uneven", "scores"),
    [([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]), ([0.1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])],
)
def test_too_few_arms_or_no_spread_give_no_sentence(uneven, scores):
    assert evenness_and_score(uneven, scores) is None
    assert evenness_and_score(scores, uneven) is None
