import json

import pytest
from recorded_runs import TAGS, rows

from medmim.data.dataset.contamination_certificate import CERTIFICATE, NONE_FOUND, UNKNOWN
from medmim.errors import RunError
from medmim.tracking.comparison.runs import CASES, find_runs, further_runs, read_run
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_ids import ORIGIN


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


def test_ids_may_be_shortened_as_in_every_command(new_home):
    store = Store(new_home())
    ids = [record(store, arm, [0.5]) for arm in ("scratch", "a")]
    assert [one.run_id for one in find_runs(store, [one[:8] for one in ids])] == ids
    many = [record(store, "b", [0.5]) for _ in range(17)]
    first = next(one[0] for one in many if sum(other[0] == one[0] for other in [*ids, *many]) > 1)
    with pytest.raises(
        RunError, match=rf"compare {first}: expected .*, got the beginning of \d+ run ids: {first}"
    ):
        find_runs(store, [first])
    with pytest.raises(
        RunError, match=r"compare zz: expected .*, got the beginning of no run id in this home folder"
    ):
        find_runs(store, ["zz"])


def test_without_names_all_comparable_runs_are_found_newest_first(new_home):
    store = Store(new_home())
    record(store, "a", [0.1], dataset_hash="old")
    record(store, "a", [0.1], labelled=20)
    wanted = [record(store, "a", [0.1]), record(store, "scratch", [0.2]), record(store, "a", [0.4], seed=1)]
    record(store, "b", [0.9], status="FAILED")
    record(store, "c", [0.9], stage="pretrain")
    assert [one.run_id for one in find_runs(store, [])] == wanted[::-1]


def test_runs_of_the_same_arms_that_were_not_named_are_counted(new_home):
    """Two seeds chosen out of five by their scores are no evidence."""
    store = Store(new_home())
    ids = [record(store, "a", [0.1 * seed], seed=seed) for seed in range(3)]
    record(store, "b", [0.5])
    assert [further_runs(store, find_runs(store, ids[:count])) for count in (1, 2, 3)] == [2, 1, 0]


def test_settings_of_the_run_and_of_its_pretraining_are_read(new_home):
    store = Store(new_home())
    pretrained = store.begin(experiment="test", name="p", tags={"stage": "pretrain"})
    pretrained.settings({"steps": 7})
    pretrained.metrics({"last/minutes": 2.0}, step=0)
    run_id = record(store, "a", [0.5], pretraining_run=pretrained.run_id)
    store.resume(run_id).settings({"lr": 0.1})
    store.resume(run_id).metrics({"last/minutes": 1.0}, step=0)
    (found,) = find_runs(store, [run_id])
    assert (found.settings, found.pretraining, found.minutes) == ({"lr": 0.1}, {"steps": 7}, 3.0)


def test_settings_recorded_by_0_1_0_are_read_under_their_current_names(new_home):
    store = Store(new_home())
    pretrained = store.begin(experiment="test", name="p", tags={"stage": "pretrain"})
    pretrained.settings({"clock": "cpu", "mask_options": {"up_to": 0.9}})
    run_id = record(store, "a", [0.5], pretraining_run=pretrained.run_id)
    store.resume(run_id).settings({"evaluations": 3, "tune": "probe"})
    (found,) = find_runs(store, [run_id])
    assert found.settings == {"num_evaluations": 3, "mode": "linear_probe"}
    assert found.pretraining == {"time_source": "cpu", "mask_options": {"max_ratio": 0.9}}


def test_settings_that_are_not_recorded_are_unknown(store):
    run = store.run(record(store, "a", [0.5]))
    assert (read_run(store, run).settings, read_run(store, run).pretraining) == (None, None)
    control = store.run(record(store, "scratch", [0.5]))
    assert read_run(store, control).pretraining == {}


@pytest.mark.parametrize(
    ("verdict", "tags", "expected"),
    [
        (NONE_FOUND, {}, NONE_FOUND),
        ("clean", {}, NONE_FOUND),
        (None, {}, UNKNOWN),
        (NONE_FOUND, {ORIGIN: "elsewhere"}, UNKNOWN),
    ],
    ids=["certified", "certified by an earlier version", "no certificate", "certified elsewhere"],
)
def test_contamination_is_that_of_a_certificate_made_here(store, verdict, tags, expected):
    run_id = record(store, "a", [0.5], **tags)
    if verdict:
        store.resume(run_id).text(f"model/{CERTIFICATE}", json.dumps({"verdict": verdict}))
    assert read_run(store, store.run(run_id)).contamination == expected


def test_no_finished_run_is_an_error(new_home):
    with pytest.raises(
        RunError, match="no finished fine-tuning run to compare: run `medmim finetune segment`"
    ):
        find_runs(Store(new_home()), [])


def test_a_run_of_another_stage_is_rejected(store):
    run_id = record(store, "a", [0.5], stage="pretrain")
    with pytest.raises(
        RunError,
        match=f"expected a run of `medmim finetune`, got run {run_id[:8]} of `medmim pretrain segment`",
    ):
        find_runs(store, [run_id])


@pytest.mark.parametrize("key", ["dataset_hash", "split_hash", "task"])
def test_runs_tested_on_other_patients_are_rejected(store, key):
    ids = [record(store, "a", [0.5]), record(store, "b", [0.5], **{key: "other"})]
    with pytest.raises(RunError, match="was tested on other patients"):
        find_runs(store, ids)


def test_a_run_that_was_not_tested_is_an_error(store):
    tags = {**TAGS, "dataset": "scans", "arm": "a", "stage": "finetune"}
    recorder = store.begin(experiment="test", name="a", tags=tags)
    with pytest.raises(RunError, match=r"has no artifact 'cases\.jsonl'"):
        find_runs(store, [recorder.run_id])
