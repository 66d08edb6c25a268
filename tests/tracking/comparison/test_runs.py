import json

import numpy as np
import pytest
from recorded_runs import TAGS, rows, run, spread

from medmim.errors import RunError
from medmim.tracking.comparison.runs import CASES, compare, find_runs
from medmim.tracking.mlflow_store import Store


def test_the_control_comes_first_and_all_are_compared_with_it():
    found = compare([run("b", spread(0.8)), run("a", spread(0.7)), run("scratch", spread(0.6))])
    assert [arm.name for arm in found.arms] == ["scratch", "a", "b"]
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "scratch"), ("b", "scratch")]
    assert found.verdicts == [pair.verdict for pair in found.pairs]


def test_without_scratch_the_first_arm_is_the_control():
    found = compare([run("b", spread(0.8)), run("a", spread(0.7))])
    assert [(pair.first, pair.second) for pair in found.pairs] == [("b", "a")]


def test_patients_are_paired():
    hard = np.linspace(0.2, 0.9, 12)  # patients differ far more than arms
    gain = 0.02 + np.random.default_rng(0).normal(0, 0.01, size=12)
    found = compare([run("scratch", hard.tolist()), run("a", (hard + gain).tolist())])
    assert found.arms[0].score.sd > 0.2
    pair = found.pairs[0]
    assert pair.difference.mean == pytest.approx(gain.mean())
    assert pair.difference.sd < 0.02
    assert pair.verdict.endswith("evidence of a gain")


def test_seeds_cases_and_classes_are_averaged_within_a_patient():
    first = [*rows([0.2, 0.4], label="core"), *rows([0.4, 0.8], label="rim", hd95=None)]
    second = [*rows([0.6, 0.8], label="core"), *rows([0.8, 0.8], label="rim", hd95=4.0)]
    arm = compare([run("a", first, seed=0), run("a", second, seed=1)]).arms[0]
    assert arm.patients == pytest.approx({"p0": 0.5, "p1": 0.7})
    assert arm.score.n == 2
    assert arm.seeds == (0, 1)
    assert arm.runs == ("a0", "a1")
    assert arm.by_label == pytest.approx({"core": 0.5, "rim": 0.7})
    assert arm.hd95_mm == pytest.approx(np.mean([(2 + 2 + 4) / 3] * 2))


def test_no_distance_is_none():
    assert compare([run("a", rows([0.0, 0.0], hd95=None))]).arms[0].hd95_mm is None


@pytest.mark.parametrize("key", ["encoder", "dims", "size", "batch_size", "lr", "budget", "labelled"])
def test_what_differs_is_said(key):
    found = compare([run("scratch", spread(0.6)), run("a", spread(0.7), **{key: "other"})])
    expected = ", ".join(sorted({TAGS[key], "other"}))
    assert f"the runs differ in {key}: {expected}" in found.warnings


def test_equal_runs_differ_in_nothing():
    seeds = (0, 1)
    found = compare([run(arm, spread(0.6), seed=seed) for arm in ("scratch", "a") for seed in seeds])
    assert found.warnings == ()


def test_single_seeds_and_other_seeds_are_said():
    found = compare([run("scratch", spread(0.6)), run("a", spread(0.7), seed=1)])
    assert "the arms were run with different seeds" in found.warnings
    assert any(text.startswith("one seed an arm") for text in found.warnings)


def test_one_arm_cannot_be_compared_and_says_so():
    found = compare([run("a", spread(0.7))])
    assert found.pairs == ()
    assert any(text.startswith("only one arm ('a')") for text in found.warnings)


def test_the_json_names_no_patients():
    found = compare([run("scratch", spread(0.6)), run("a", spread(0.7))]).as_json()
    assert set(found) == {"arms", "pairs", "verdicts", "warnings", "scores"}
    text = json.dumps(found, allow_nan=False)
    assert '"p0"' not in text
    assert found["arms"][0]["dice"]["n"] == 12


@pytest.fixture(scope="module")
def store(new_home):
    return Store(new_home())


def record(store, arm, values, *, status="FINISHED", stage="finetune", **tags):
    tags = {
        **TAGS,
        "dataset": "scans",
        "arm": arm,
        "stage": stage,
        **{key: str(value) for key, value in tags.items()},
    }
    recorder = store.begin(experiment="test", name=arm, tags=tags)
    recorder.text(CASES, "".join(json.dumps(row) + "\n" for row in rows(values)))
    recorder.finish(status)
    return recorder.run_id


def test_named_runs_are_read(store):
    ids = [record(store, arm, [0.5, 0.6], dataset_hash="named") for arm in ("scratch", "a")]
    found = find_runs(store, ids)
    assert [(one.run_id, one.arm) for one in found] == list(zip(ids, ["scratch", "a"], strict=True))
    assert [row["dice"] for row in found[0].cases] == [0.5, 0.6]


def test_without_names_all_that_are_comparable_are_found(new_home):
    store = Store(new_home())
    record(store, "a", [0.1], dataset_hash="old")
    record(store, "a", [0.1], labelled=20)
    replaced = record(store, "a", [0.1])
    wanted = [record(store, "scratch", [0.2]), record(store, "a", [0.3]), record(store, "a", [0.4], seed=1)]
    record(store, "b", [0.9], status="FAILED")
    record(store, "c", [0.9], stage="pretrain")
    found = {one.run_id for one in find_runs(store, [])}
    assert found == set(wanted)
    assert replaced not in found


def test_nothing_to_compare_is_told(new_home):
    with pytest.raises(
        RunError, match="no finished fine-tuning run to compare: run `medmim finetune segment`"
    ):
        find_runs(Store(new_home()), [])


def test_a_run_of_another_stage_is_refused(store):
    run_id = record(store, "a", [0.5], stage="pretrain")
    with pytest.raises(RunError, match=f"run {run_id} is no fine-tuning run"):
        find_runs(store, [run_id])


@pytest.mark.parametrize("key", ["dataset_hash", "split_hash", "task"])
def test_runs_on_other_patients_are_refused(store, key):
    ids = [record(store, "a", [0.5]), record(store, "b", [0.5], **{key: "other"})]
    with pytest.raises(RunError, match="was tested on other patients"):
        find_runs(store, ids)


def test_a_run_that_did_not_get_to_its_test_is_told(store):
    tags = {**TAGS, "dataset": "scans", "arm": "a", "stage": "finetune"}
    recorder = store.begin(experiment="test", name="a", tags=tags)
    with pytest.raises(RunError, match=r"has no artifact 'cases\.jsonl'"):
        find_runs(store, [recorder.run_id])
