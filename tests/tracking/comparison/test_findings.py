import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from simulated import ARMS, run, simulate, true_reach

from medmim.errors import RunError
from medmim.tracking.comparison.findings import find

CLAIM = "evidence of a difference"


def claims(findings):
    return [one for one in findings.contrasts if one.claimed]


def test_a_large_gap_is_found_and_said():
    found = find(simulate(np.random.default_rng(0), gap=0.3))
    assert found.best == {"": "mesh 0.7"}
    contrast = found.against("mesh 0.7", "control")
    assert contrast.claimed
    assert contrast.verdict.startswith("mesh 0.7 above scratch by ")
    assert contrast.verdict.endswith(f"over 27 patients and 3 seeds: {CLAIM}")
    assert {one.first for one in claims(found)} == {"mesh 0.7"}
    assert {one.second for one in claims(found)} == set(ARMS) - {"mesh 0.7"}


def test_no_gap_is_said_too():
    found = find(simulate(np.random.default_rng(1)))
    assert not claims(found)
    assert all("no evidence of a difference" in sentence for sentence in found.verdicts)


def test_an_interval_without_zero_is_not_yet_evidence_among_many():
    sentences = [
        sentence
        for seed in range(30)
        for sentence in find(simulate(np.random.default_rng(seed), patients=12)).verdicts
    ]
    counted = [sentence for sentence in sentences if sentence.endswith("once all 10 comparisons are counted")]
    assert counted
    for sentence in counted:
        low, high = sentence.split("interval ")[1].split(" over ")[0].split(" … ")
        assert not low.startswith("-") or high.startswith("-")  # "-0.0" is below zero too


def test_few_patients_say_so():
    found = find(simulate(np.random.default_rng(0), gap=0.5, patients=4))
    assert all(
        sentence.endswith("too few patients to say (at least 5 are needed)") for sentence in found.verdicts
    )


def test_one_seed_is_named():
    assert "27 patients, one seed" in find(simulate(np.random.default_rng(0), seeds=1)).verdicts[0]


def test_arms_are_compared_within_their_stratum():
    rng = np.random.default_rng(0)
    runs = [
        run(arm, rng.normal(mean, 0.02, 10), stratum=stratum)
        for stratum, mean in (("0.1 of labels", 0.5), ("1 of labels", 0.9))
        for arm in ("scratch", "a", "b")
    ]
    found = find(runs)
    assert found.variants[0].title == "scratch · 0.1 of labels"
    assert set(found.best) == {"0.1 of labels", "1 of labels"}
    for one in found.contrasts:
        assert one.first.split(" · ")[1] == one.second.split(" · ")[1]


def test_folds_become_one_row_of_patients():
    first, second = run("a", [0.5, 0.6]), run("a", [0.7, 0.8])
    moved = [{**case, "patient": f"q{case['patient']}"} for case in second.cases]
    second = type(second)(second.run_id, "a", second.tags, tuple(moved))
    (only,) = find([first, second]).variants
    assert only.scores.shape == (1, 4)
    assert only.mean == pytest.approx(0.65)


def test_a_missing_seed_pairs_what_both_have():
    runs = [
        found for found in simulate(np.random.default_rng(0), arms=("scratch", "a")) if found.run_id != "a/2"
    ]
    (contrast,) = find(runs).contrasts
    assert contrast.test.seeds == 2


def test_arms_that_were_cut_short_are_not_taken_for_better():
    """Two seeds are done for three arms and one for the others; seeds differ by 5 points, arms do not."""

    def wrong(number):
        runs = simulate(np.random.default_rng(number), luck=0.05, seeds=2)
        return claims(find([one for one in runs if one.arm in ARMS[:3] or one.tags["seed"] == "0"]))

    assert sum(bool(wrong(number)) for number in range(60)) <= 3


def test_one_arm_alone_has_no_tests():
    found = find([run("a", [0.5, 0.6, 0.7])])
    assert found.contrasts == ()
    assert found.variants[0].sd_seeds is None


def test_a_run_without_any_score_is_left_out():
    nothing, some = run("scratch", [float("nan")] * 6), run("a", [0.5] * 6)
    empty = replace(nothing, arm="b", cases=())
    assert [one.arm for one in find([nothing, some, empty]).variants] == ["a"]
    with pytest.raises(RunError, match="no finished cell has a score"):
        find([nothing, empty])


def test_it_is_json():
    found = find(simulate(np.random.default_rng(0), patients=4)).as_json()
    assert json.loads(json.dumps(found, allow_nan=False))["arms"][0]["n_seeds"] == 3
    assert found["contrasts"][0]["detectable"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth",
    [{}, {"luck": 0.05}, {"seeds": 2}, {"seeds": 5, "patients": 12}],
    ids=["calm", "lucky", "two seeds", "five seeds"],
)
def test_no_gap_is_claimed_in_at_most_one_study_of_twenty(truth):
    rng = np.random.default_rng(7)
    wrong = sum(bool(claims(find(simulate(rng, **truth)))) for _ in range(1000))
    assert wrong <= 50


@pytest.mark.slow
def test_a_gap_is_found_at_the_stated_power():
    """The first step of Holm's procedure decides: half of 5 % shared by four arms against the control."""
    truth = {"seeds": 5, "luck": 0.005}
    level = 0.05 * 0.5 / 4
    gap = true_reach([stats.t.isf(level / 2, 26), stats.t.isf(0.2, 26)], **truth)
    rng = np.random.default_rng(11)
    found = [find(simulate(rng, gap=gap, **truth)).against("mesh 0.7", "control") for _ in range(300)]
    assert 0.74 < np.mean([one.claimed for one in found]) < 0.92
    assert np.median([one.test.detectable for one in found]) == pytest.approx(gap, rel=0.25)
