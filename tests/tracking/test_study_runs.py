"""The runs of a study: one for the study, one for each arm, and the plan that says which are finished."""

import pytest

from medmim.config.study import DIGEST, StudySettings, trials_of
from medmim.errors import RunError
from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_runs import PARENT, PlannedTraining, StudyRuns, finished_trials, runs_of_study

SETTINGS = StudySettings(
    name="s",
    data="private/place",
    masks=(),
    arms=({"ratio": 0.5},),
    pretrain={"size": 16},
    finetune={"size": 16},
)


@pytest.fixture
def store(home):
    return Store(home)


def test_a_restarted_study_continues_the_runs_of_study_and_arms(store):
    runs, trial = StudyRuns(store, "s"), trials_of(SETTINGS)[0]
    root = runs.start(SETTINGS, [PlannedTraining("d1", trial.arm)], {"dataset": "scans"})
    arm = runs.arm(trial, root=root.run_id)
    again = StudyRuns(store, "s")
    assert again.start(SETTINGS, [], {}).run_id == root.run_id
    assert again.arm(trial, root=root.run_id).run_id == arm.run_id
    found = store.run(arm.run_id).data
    assert found.tags[PARENT] == root.run_id
    assert found.params.keys() == {"method", "mask", "ratio", "encoder", "label_fraction"}


def test_paths_are_not_recorded(store):
    root = StudyRuns(store, "s").start(SETTINGS, [], {})
    assert "private" not in store.read_text(store.run(root.run_id), "study.json")


def test_planned_trials_without_a_finished_run_are_missing(store):
    root = StudyRuns(store, "s").start(SETTINGS, [PlannedTraining(one, "a") for one in ("d1", "d2")], {})
    cell = store.begin(experiment="s", name="c", tags={"study": "s", "role": "cell", DIGEST: "d3"})
    cell.text("cases.jsonl", "")
    for recorder in (cell, root):
        recorder.finish("FINISHED")
    found = finished_trials(store, "s")
    assert (found.runs, found.missing, found.earlier, found.varied) == ((), 2, 1, ("ratio",))
    assert {run.info.run_id for run in runs_of_study(store, "s")} == {root.run_id, cell.run_id}


def test_a_damaged_plan_is_named(store):
    root = StudyRuns(store, "s").start(SETTINGS, [], {})
    root.text("cells.json", "no list")
    with pytest.raises(RunError, match=f"run {root.run_id}: its artifact 'cells.json' is damaged"):
        finished_trials(store, "s")
