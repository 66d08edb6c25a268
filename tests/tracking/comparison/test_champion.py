"""A model becomes champion through the paired test against the champion or the control, or by force."""

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated import simulate

from medmim.data.dataset.contamination_certificate import CERTIFICATE, CONTAMINATED, NONE_FOUND, UNKNOWN
from medmim.errors import RunError, UsageError
from medmim.tracking.comparison.champion import (
    champion_of,
    champion_runs,
    force_promotion,
    promote,
)
from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.runs import CASES, read_run
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN

MODEL = "scans-segment"


@pytest.fixture
def store(new_home):
    return Store(new_home())


def put(store, simulated, *, study, split="s", contamination=NONE_FOUND, model=MODEL, **further):
    """Write simulated runs to the store as fine-tuning does; return them as they are read back."""
    found = []
    for run in simulated:
        split = run.tags.get("split_hash", split)
        tags = {"arm": run.arm, "seed": run.tags["seed"], "study": study, "role": "cell", "stratum": ""}
        tags |= {"stage": "finetune", "split_hash": split, "lineage": run.tags["lineage"], **further}
        recorder = store.begin(experiment=study, name=run.arm, tags=tags)
        rows = [dict(case, case=case["patient"]) for case in run.cases]
        recorder.text(CASES, "".join(json.dumps(row) + "\n" for row in rows))
        recorder.text(f"model/{CERTIFICATE}", json.dumps({"verdict": contamination}))
        recorder.finish("FINISHED")
        lineage = {"contamination": contamination}
        store.register(model=model, run_id=recorder.run_id, tags=lineage, alias="challenger")
        found.append(read_run(store, store.run(recorder.run_id)))
    return found


def elect(store, *, gap, study, seed=0, **words):
    simulated = simulate(np.random.default_rng(seed), gap=gap, arms=("scratch", "mesh 0.7"))
    runs = put(store, simulated, study=study, **words)
    return runs, promote(store, runs, find(equal(runs)))


def equal(runs):
    """The runs as if their settings were recorded: these have none."""
    return [replace(run, settings={}, pretraining={}) for run in runs]


def test_the_newest_model_is_challenger(store):
    runs, _ = elect(store, gap=0.0, study="a")
    newest = store.client.get_model_version_by_alias(MODEL, "challenger")
    assert newest.run_id == runs[-1].run_id


def test_a_clear_gain_over_the_control_makes_a_champion(store):
    runs, promotion = elect(store, gap=0.3, study="a")
    assert promotion.promoted
    assert "is champion: mesh 0.7 above scratch by" in promotion.sentence
    champion = champion_of(store, MODEL)
    # the first seed of the best arm, not the best of its seeds
    assert champion.run_id == next(run.run_id for run in runs if run.arm == "mesh 0.7")
    assert "evidence of a difference (challenge 1 on this test set: p " in champion.tags["promoted_by"]
    assert float(champion.tags["promotion_p"]) < 0.05


def test_without_evidence_nothing_is_promoted(store):
    _, promotion = elect(store, gap=0.0, study="a", seed=1)
    assert not promotion.promoted
    assert "is not promoted" in promotion.sentence
    assert champion_of(store, MODEL) is None


def test_a_higher_mean_does_not_replace_a_champion(store):
    elect(store, gap=0.3, study="a")
    before = champion_of(store, MODEL)
    _, promotion = elect(store, gap=0.31, study="b", seed=1)
    assert not promotion.promoted
    assert "mesh 0.7 is not promoted: mesh 0.7 " in promotion.sentence
    assert " the champion mesh 0.7 by " in promotion.sentence
    assert "no evidence of a difference" in promotion.sentence
    assert champion_of(store, MODEL).run_id == before.run_id


def test_a_clearly_better_model_replaces_the_champion(store):
    elect(store, gap=0.1, study="a")
    runs, promotion = elect(store, gap=0.3, study="b")
    assert promotion.promoted
    assert champion_of(store, MODEL).run_id in {run.run_id for run in runs}


def test_the_champion_is_not_promoted_twice(store):
    runs, _ = elect(store, gap=0.3, study="a")
    again = promote(store, runs, find(equal(runs)))
    assert (again.promoted, again.sentence) == (False, "mesh 0.7 is not promoted: it is already the champion")


@pytest.mark.parametrize(
    ("contamination", "reason"),
    [
        (CONTAMINATED, "its training saw test patients"),
        (UNKNOWN, "it is unknown whether its training saw test patients"),
    ],
)
def test_contaminated_and_unknown_models_are_never_promoted(store, contamination, reason):
    _, promotion = elect(store, gap=0.3, study="a", contamination=contamination)
    assert promotion.sentence == f"mesh 0.7 is not promoted: {reason}"
    assert champion_of(store, MODEL) is None


def test_one_seed_promotes_nothing(store):
    simulated = simulate(np.random.default_rng(0), gap=0.5, arms=("scratch", "mesh 0.7"), seeds=1)
    runs = put(store, simulated, study="a")
    promotion = promote(store, runs, find(equal(runs)))
    assert not promotion.promoted
    assert "no claim from one seed" in promotion.sentence


def test_an_unfinished_study_promotes_nothing(store):
    simulated = simulate(np.random.default_rng(0), gap=0.5, arms=("scratch", "mesh 0.7"))
    runs = put(store, simulated, study="a")
    promotion = promote(store, runs, find(equal(runs)), missing=2)
    assert promotion.sentence == (
        "mesh 0.7 is not promoted: 2 trials of the study not finished; run the study again"
    )


def test_different_settings_promote_nothing(store):
    runs, _ = elect(store, gap=0.0, study="a")
    unequal = [replace(run, settings={"lr": len(run.arm)}, pretraining={}) for run in runs]
    assert "the arms are unequal" in promote(store, runs, find(unequal)).sentence


def test_challenges_of_one_test_set_are_counted_and_share_the_error_rate(store):
    for number, study in enumerate("abc", 1):
        runs, promotion = elect(store, gap=0.02, study=study, seed=number)
        level = 0.05 / (number * (number + 1))
        assert f"(challenge {number} on this test set: p " in promotion.sentence
        assert f"{level:.4f} needed" in promotion.sentence
    assert "a fresh fold (`--fold`, or `folds` of a study) has an error rate of its own" in promotion.sentence
    again = promote(store, runs, find(equal(runs)))
    assert "(challenge 3 on this test set" in again.sentence
    _, elsewhere = elect(store, gap=0.02, study="d", seed=1, split="other")
    assert "(challenge 1 on this test set" in elsewhere.sentence
    _, renamed = elect(store, gap=0.02, study="e", seed=1, model="renamed-segment")
    assert "(challenge 4 on this test set" in renamed.sentence


def test_a_damaged_record_of_challenges_claims_nothing(store):
    runs, _ = elect(store, gap=0.02, study="a", seed=1)
    (key,) = store.client.get_registered_model(MODEL).tags
    for planted in ("[", "7", '{"number": 1}', "[" * 4000):
        store.client.set_registered_model_tag(MODEL, key, planted)
        with pytest.raises(RunError, match="record of challenges of model 'scans-segment' is damaged"):
            promote(store, runs, find(equal(runs)))


def test_runs_of_a_pack_do_not_join_the_arm_of_the_champion(store):
    """Weak runs under the name of the champion's arm would make it easy to beat."""
    _, promotion = elect(store, gap=0.1, study="a")
    assert promotion.promoted
    before = {run.run_id for run in champion_runs(store, champion_of(store, MODEL))}
    worse = simulate(np.random.default_rng(9), gap=-0.3, arms=("scratch", "mesh 0.7"))
    put(store, worse, study="a", **{ORIGIN: "0" * 32})
    assert {run.run_id for run in champion_runs(store, champion_of(store, MODEL))} == before


def test_the_best_of_many_arms_is_tested_as_such(store):
    elect(store, gap=0.1, study="a", split="x")
    many = simulate(
        np.random.default_rng(3), gap=0.0, arms=("scratch", *(f"mesh 0.{n}" for n in range(1, 9)))
    )
    runs = put(store, many, study="b", split="x")
    promotion = promote(store, runs, find(equal(runs)))
    assert not promotion.promoted
    p = float(promotion.sentence.partition("on this test set: p ")[2].partition(",")[0])
    assert p >= 8 / 20_001


def test_force_is_recorded_with_its_reason(store):
    elect(store, gap=0.0, study="a")
    promotion = force_promotion(store, f"{MODEL}:2", "the only model for this scanner")
    assert promotion.promoted
    champion = champion_of(store, MODEL)
    assert champion.version == 2
    assert champion.tags["promoted_by"] == "forced: the only model for this scanner"
    with pytest.raises(UsageError, match="--why: expected the reason"):
        force_promotion(store, f"{MODEL}:2", " ")
    with pytest.raises(
        RunError, match=r"no model version 'x:1': expected NAME:VERSION as `medmim models` lists"
    ):
        force_promotion(store, "x:1", "because")


def test_a_champion_of_another_test_set_is_not_compared(store):
    elect(store, gap=0.1, study="a")
    before = champion_of(store, MODEL)
    _, promotion = elect(store, gap=0.3, study="b", split="other")
    assert not promotion.promoted
    assert "the champion was tested on other patients" in promotion.sentence
    assert champion_of(store, MODEL).run_id == before.run_id


def in_folds(simulated):
    """The same runs, each in two folds with a test of its own."""
    for run in simulated:
        for fold in (0, 1):
            tags = {**run.tags, "split_hash": f"fold {fold}"}
            yield replace(run, cases=run.cases[fold::2], tags=tags)


def test_a_champion_of_the_same_folds_is_compared(store):
    for gap, study in ((0.1, "a"), (0.3, "b")):
        simulated = simulate(np.random.default_rng(0), gap=gap, arms=("scratch", "mesh 0.7"))
        runs = put(store, list(in_folds(simulated)), study=study)
        promotion = promote(store, runs, find(equal(runs)))
    assert promotion.promoted
    assert " the champion mesh 0.7 by " in promotion.sentence


def test_trials_of_an_earlier_plan_do_not_count_for_the_champion(store):
    elect(store, gap=-0.5, study="a", budget="steps=1")
    runs, promotion = elect(store, gap=0.3, study="a", budget="steps=9")
    assert promotion.promoted
    found = champion_runs(store, champion_of(store, MODEL))
    assert {run.run_id for run in found} == {run.run_id for run in runs if run.arm == "mesh 0.7"}
