import pytest

from medmim.tracking.statistics.evenness_hypothesis import evenness_and_score, unevenness

MASKS = ["a", "b", "c", "d", "e", "f", "g"]


def test_independent_cells_have_an_unevenness_of_one_at_every_ratio():
    assert [unevenness(ratio * (1 - ratio), ratio) for ratio in (0.3, 0.9)] == pytest.approx([1, 1])


def test_even_masks_that_score_higher_correlate():
    uneven, scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    found = evenness_and_score(MASKS, uneven, scores, stratum="vit")
    assert found.rho == pytest.approx(1)
    assert found.p < 0.01
    assert found.adjusted_to(0.02).sentence == (
        "vit: mask evenness and score over 7 masks (7 arms): Spearman's rho +1.00, adjusted p 0.020: "
        "evidence of a correlation"
    )
    assert found.adjusted_to(0.2).sentence.endswith("no evidence of a correlation")


def test_arms_of_one_mask_count_once():
    """Three ratios of each mask triple the arms, not the evidence."""
    uneven, scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.5, 0.8, 0.3, 0.7, 0.4, 0.6, 0.2]
    one, three = (
        evenness_and_score(MASKS, uneven, scores),
        evenness_and_score(MASKS * 3, uneven * 3, scores * 3),
    )
    assert (three.masks, three.arms) == (7, 21)
    assert (three.rho, three.p) == pytest.approx((one.rho, one.p))


@pytest.mark.parametrize(
    ("masks", "uneven", "scores"),
    [
        (MASKS[:4] * 3, [0.1, 0.2, 0.3, 0.4] * 3, [1.0, 2.0, 3.0, 4.0] * 3),
        (MASKS[:5], [0.1] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]),
        (MASKS[:5], [0.1, 0.2, 0.3, 0.4, 0.5], [1.0] * 5),
        ([], [], []),
    ],
    ids=["four masks", "one evenness", "one score", "no mask"],
)
def test_too_few_masks_or_no_spread_give_no_sentence(masks, uneven, scores):
    assert evenness_and_score(masks, uneven, scores) is None
