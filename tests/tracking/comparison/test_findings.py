"""Findings on simulated studies with known effects."""

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated import ARMS, run, simulate, two_arms

from medmim.data.dataset.contamination_certificate import CONTAMINATED, UNKNOWN
from medmim.errors import RunError
from medmim.tracking.comparison.findings import find

CLAIM = "evidence of a difference"


def claims(findings):
    return [one for one in findings.contrasts if one.claimed]


def test_a_large_effect_is_found_and_reported():
    found = find(simulate(np.random.default_rng(0), gap=0.3))
    assert found.best == {"": "mesh 0.7"}
    contrast = found.against("mesh 0.7", "control")
    assert contrast.claimed
    assert contrast.verdict.startswith("mesh 0.7 above scratch by ")
    assert contrast.verdict.endswith(f"over 27 patients and 3 seeds: {CLAIM}")
    assert {one.first for one in claims(found)} == {"mesh 0.7"}
    assert {one.second for one in claims(found)} == set(ARMS) - {"mesh 0.7"}


def test_no_effect_is_reported_as_no_evidence():
    found = find(simulate(np.random.default_rng(1)))
    assert not claims(found)
    assert all("no evidence of a difference" in sentence for sentence in found.verdicts)


def test_an_interval_without_zero_is_not_yet_evidence_among_many_comparisons():
    sentences = [
        sentence
        for seed in range(30)
        for sentence in find(simulate(np.random.default_rng(seed), patients=12)).verdicts
    ]
    counted = [sentence for sentence in sentences if "after correction for 10 comparisons;" in sentence]
    assert counted
    for sentence in counted:
        low, high = sentence.split("interval ")[1].split(" over ")[0].split(" … ")
        assert not low.startswith("-") or high.startswith("-")  # "-0.0" is below zero too


def test_too_few_patients_are_reported():
    found = find(simulate(np.random.default_rng(0), gap=0.5, patients=4))
    few = "too few patients for a claim (at least 5 are needed)"
    assert all(sentence.endswith(few) for sentence in found.verdicts)


def test_one_seed_gives_numbers_and_the_command_that_would_be_needed_but_no_claim():
    runs = [replace(one, minutes=4.0) for one in simulate(np.random.default_rng(0), gap=0.5, seeds=1)]
    found = find(runs)
    assert not claims(found)
    contrast = found.against("mesh 0.7", "control")
    assert contrast.test.low > 0
    assert contrast.verdict.endswith(
        "over 27 patients only, one seed: no claim from one seed, because another seed may reverse the "
        "result; `medmim compare --seeds 2` trains the missing seeds in about 20 minutes"
    )
    assert contrast.as_json()["interval_over"] == "27 patients only, one seed"
    assert contrast.as_json()["detectable"] is None
    assert any(text.startswith("one seed per arm: intervals cover patients only") for text in found.warnings)


def test_a_pair_with_one_seed_counts_the_variation_between_seeds_of_other_arms_and_says_so():
    runs = simulate(np.random.default_rng(0), arms=("scratch", "mesh 0.7"), seeds=3, luck=0.2)
    alone = find([one for one in runs if one.arm == "scratch" or one.seed == 0])
    contrast = alone.against("mesh 0.7", "control")
    single = find([one for one in runs if one.seed == 0]).against("mesh 0.7", "control")
    assert contrast.test.high - contrast.test.low > 2 * (single.test.high - single.test.low)
    over = "27 patients, one seed, and the variation of the arms with several seeds"
    assert contrast.as_json()["interval_over"] == over
    assert f"over {over}: no claim from one seed" in contrast.verdict


def test_seeds_that_share_a_pretraining_allow_a_claim_about_these_weights_only():
    def claim(lineages):
        arms = ("scratch", "mesh 0.7")
        runs = simulate(np.random.default_rng(0), gap=0.3, arms=arms, seeds=len(lineages))
        shared = [
            replace(one, tags={**one.tags, "lineage": lineages[one.seed]}) if one.arm != "scratch" else one
            for one in runs
        ]
        return find(shared)

    restriction = "for these weights, not for a method or mask: seeds of mesh 0.7 share a pretraining"
    for lineages in (["p", "p", "p"], ["p", "p", "q"], ["", "", ""]):  # no record is no proof of three
        found = claim(lineages)
        [contrast] = claims(found)
        over = "27 patients and 3 seeds of fine-tuning"
        assert contrast.verdict.endswith(f"over {over}: {CLAIM} {restriction}")
        assert contrast.as_json()["interval_over"] == over
        assert found.arms[1].as_json()["interval_over"] == "patients and seeds of fine-tuning"
        assert any("for a claim about method, mask or ratio pretrain" in text for text in found.warnings)
    found = claim(["p", "q", "r"])
    assert claims(found)[0].verdict.endswith(f"over 27 patients and 3 seeds: {CLAIM}")
    assert found.warnings == ()


def test_an_arm_with_one_seed_in_a_study_with_more_has_no_claim():
    runs = [one for one in simulate(np.random.default_rng(0), gap=0.5) if "mesh 0.7/" not in one.run_id]
    late = [one for one in simulate(np.random.default_rng(0), gap=0.5) if one.run_id == "mesh 0.7/0"]
    assert not claims(find([*runs, *late]))


def test_arms_are_compared_within_their_stratum():
    rng = np.random.default_rng(0)
    runs = [
        run(arm, rng.normal(mean, 0.02, 10), stratum=stratum)
        for stratum, mean in (("0.1 of labels", 0.5), ("1 of labels", 0.9))
        for arm in ("scratch", "a", "b")
    ]
    found = find(runs)
    assert found.arms[0].title == "scratch · 0.1 of labels"
    assert set(found.best) == {"0.1 of labels", "1 of labels"}
    for one in found.contrasts:
        assert one.first.split(" · ")[1] == one.second.split(" · ")[1]


def test_a_missing_seed_pairs_the_seeds_that_both_arms_have():
    runs = [one for one in simulate(np.random.default_rng(0), arms=("scratch", "a")) if one.run_id != "a/2"]
    (contrast,) = find(runs).contrasts
    assert contrast.test.seeds == 2


def test_different_settings_are_listed_and_nothing_is_claimed():
    runs = two_arms([0.1] * 12)
    assert claims(find(runs))
    slower = [replace(one, settings={"lr": 0.01}) if one.arm == "a" else one for one in runs]
    equal = [replace(one, settings={"lr": 0.001}) if one.arm != "a" else one for one in slower]
    found = find(equal)
    assert found.differences == ("fine-tuning lr: 0.001 (scratch); 0.01 (a)",)
    assert not claims(found)
    assert "no claim, because the arms are unequal (1 difference, listed at the top)" in found.verdicts[0]


def test_a_second_control_is_shown_and_does_not_replace_the_first():
    runs = [replace(one, settings={"lr": 0.001}) for one in two_arms([0.1] * 12)]
    poor = [replace(one, settings={"lr": 0.1}, run_id=f"poor {one.run_id}") for one in runs[:2]]
    found = find([*runs, *poor])
    controls = [arm.title for arm in found.arms if arm.is_control]
    assert controls == ["scratch [lr=0.001]", "scratch [lr=0.1]"]
    assert [one.second for one in found.contrasts if one.against == "control"] == controls
    assert not claims(found)


def test_contamination_reaches_the_sentence():
    clean = two_arms([0.1] * 12)
    unknown = [replace(one, contamination=UNKNOWN) if one.arm == "a" else one for one in clean]
    assert find(unknown).verdicts[0].endswith(f"{CLAIM} (contamination of a: unknown)")
    seen = [replace(one, contamination=CONTAMINATED) if one.arm == "a" else one for one in clean]
    found = find(seen)
    assert found.verdicts[0].endswith("no claim, because the training of a saw test patients")
    assert "the training of a saw test patients: its score is optimistic" in found.warnings


def test_one_arm_alone_has_no_tests():
    found = find([run("a", [0.5, 0.6, 0.7])])
    assert found.contrasts == ()
    assert any(text.startswith("only one arm ('a')") for text in found.warnings)


def test_a_run_without_a_score_is_left_out():
    nothing, some = run("scratch", [float("nan")] * 6), run("a", [0.5] * 6)
    empty = replace(nothing, arm="b", cases=())
    assert [arm.name for arm in find([nothing, some, empty]).arms] == ["a"]
    with pytest.raises(RunError, match="no finished run has a score"):
        find([nothing, empty])


def test_the_json_is_finite_and_names_no_patient():
    found = find(simulate(np.random.default_rng(0), patients=4)).as_json()
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["arms"][0]["n_seeds"] == 3
    assert found["contrasts"][0]["detectable"] is None
    assert '"p000"' not in text
    assert {"arms", "pairs", "verdicts", "warnings", "differences"} <= found.keys()
