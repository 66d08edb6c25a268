"""The only way to become champion is the paired test, against who is in office or the control."""

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated import simulate

from medmim.tracking.comparison.champion import champion_of, champion_runs, promote, versions
from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.runs import CASES, read_run
from medmim.tracking.mlflow_store import Store

MODEL = "scans-segment"


@pytest.fixture
def store(new_home):
    return Store(new_home())


def put(store, simulated, *, study, split="s", contamination="clean", **further):
    """Write simulated runs into the store as fine-tuning leaves them; return them as they are read back."""
    found = []
    for run in simulated:
        split = run.tags.get("split_hash", split)
        tags = {"arm": run.arm, "seed": run.tags["seed"], "study": study, "role": "cell", "stratum": ""}
        tags |= {"stage": "finetune", "split_hash": split, **further}
        recorder = store.begin(experiment=study, name=run.arm, tags=tags)
        rows = [dict(case, case=case["patient"]) for case in run.cases]
        recorder.text(CASES, "".join(json.dumps(row) + "\n" for row in rows))
        recorder.finish("FINISHED")
        lineage = {"contamination": contamination}
        store.register(model=MODEL, run_id=recorder.run_id, tags=lineage, alias="challenger")
        found.append(read_run(store, store.run(recorder.run_id)))
    return found


def elect(store, *, gap, study, seed=0, **words):
    simulated = simulate(np.random.default_rng(seed), gap=gap, arms=("scratch", "mesh 0.7"))
    runs = put(store, simulated, study=study, **words)
    return runs, promote(store, runs, find(runs))


def test_the_newest_success_is_challenger(store):
    runs, _ = elect(store, gap=0.0, study="a")
    newest, *others = versions(store)
    assert newest.aliases == ("challenger",)
    assert newest.run_id == runs[-1].run_id
    assert not any(one.aliases for one in others)


def test_a_clear_gain_over_the_control_makes_a_champion(store):
    runs, promotion = elect(store, gap=0.3, study="a")
    assert promotion.promoted
    assert "is champion: mesh 0.7 above scratch by" in promotion.sentence
    champion = champion_of(store, MODEL)
    # the first seed of the best arm, not the best of its seeds
    assert champion.run_id == next(run.run_id for run in runs if run.arm == "mesh 0.7")
    assert champion.tags["promoted_by"].endswith("evidence of a difference")
    assert float(champion.tags["promotion_p"]) < 0.05


def test_without_evidence_nobody_is_promoted(store):
    _, promotion = elect(store, gap=0.0, study="a", seed=1)
    assert not promotion.promoted
    assert "is not promoted" in promotion.sentence
    assert champion_of(store, MODEL) is None


def test_a_higher_mean_does_not_unseat_a_champion(store):
    elect(store, gap=0.3, study="a")
    before = champion_of(store, MODEL)
    _, promotion = elect(store, gap=0.31, study="b", seed=1)
    assert not promotion.promoted
    assert "mesh 0.7 is not promoted: mesh 0.7 " in promotion.sentence
    assert " the champion mesh 0.7 by " in promotion.sentence
    assert "no evidence of a difference" in promotion.sentence
    assert champion_of(store, MODEL).run_id == before.run_id


def test_a_clearly_better_one_does(store):
    elect(store, gap=0.1, study="a")
    runs, promotion = elect(store, gap=0.3, study="b")
    assert promotion.promoted
    assert champion_of(store, MODEL).run_id in {run.run_id for run in runs}


def test_the_champion_is_not_promoted_twice(store):
    runs, _ = elect(store, gap=0.3, study="a")
    again = promote(store, runs, find(runs))
    assert (again.promoted, again.sentence) == (False, "mesh 0.7 is champion already")


def test_contaminated_models_are_never_promoted(store):
    _, promotion = elect(store, gap=0.3, study="a", contamination="contaminated")
    assert promotion.sentence == "mesh 0.7 is not promoted: its training saw test patients"
    assert champion_of(store, MODEL) is None


def test_a_champion_of_another_test_cannot_be_judged(store):
    elect(store, gap=0.1, study="a")
    before = champion_of(store, MODEL)
    _, promotion = elect(store, gap=0.3, study="b", split="other")
    assert not promotion.promoted
    assert "the champion in office was tested on other patients" in promotion.sentence
    assert champion_of(store, MODEL).run_id == before.run_id


def in_folds(simulated):
    """The same runs, each in two folds with a test of its own."""
    for run in simulated:
        for fold in (0, 1):
            tags = {**run.tags, "split_hash": f"fold {fold}"}
            yield replace(run, cases=run.cases[fold::2], tags=tags)


def test_a_champion_of_the_same_folds_is_judged(store):
    for gap, study in ((0.1, "a"), (0.3, "b")):
        simulated = simulate(np.random.default_rng(0), gap=gap, arms=("scratch", "mesh 0.7"))
        runs = put(store, list(in_folds(simulated)), study=study)
        promotion = promote(store, runs, find(runs))
    assert promotion.promoted
    assert " the champion mesh 0.7 by " in promotion.sentence


def test_cells_of_an_earlier_plan_do_not_speak_for_the_champion(store):
    elect(store, gap=-0.5, study="a", budget="steps=1")
    runs, promotion = elect(store, gap=0.3, study="a", budget="steps=9")
    assert promotion.promoted
    found = champion_runs(store, champion_of(store, MODEL))
    assert {run.run_id for run in found} == {run.run_id for run in runs if run.arm == "mesh 0.7"}
