"""The conclusion of a study: the comparison of its finished trials is recorded in the runs of its arms."""

import pytest

from medmim.config.study import StudySettings, trials_of
from medmim.stages.study.conclusion import conclude
from medmim.stages.study.planning import trainings_of
from medmim.tracking.mlflow_store import Store
from medmim.tracking.recorder_interface import NOTE
from medmim.tracking.study_runs import StudyRuns

SETTINGS = StudySettings(name="done", pretrain={"size": 16}, finetune={"size": 16})


def conclusion_of(home, finished):
    """Return the comparison of the study whose fine-tunings are the given runs, and its root run."""
    store = Store(home)
    trainings = trainings_of(trials_of(SETTINGS), dataset_hash="d", study="done")
    tuned = [one for one in trainings if one.job.stage == "finetune"]
    root = StudyRuns(store, "done").start(SETTINGS, [], {})
    runs = {one.job.digest: finished[one.trial.arm] for one in tuned if one.trial.arm in finished}
    found = conclude(StudyRuns(store, "done"), root, trainings, runs)
    root.finish("FINISHED")
    return found, store, store.run(root.run_id)


def test_without_a_finished_trial_nothing_is_compared(home):
    found, store, _ = conclusion_of(home, {})
    assert found is None
    assert store.runs(study="done", role="arm") == []


def test_scores_and_verdicts_are_recorded_in_the_runs_of_arms_and_study(study_copy):
    finished = {"spark mesh 0.7": study_copy.tuned.run_id, "scratch": study_copy.scratch.run_id}
    found, store, root = conclusion_of(study_copy.home, finished)
    arms = {run.data.tags["arm"]: run for run in store.runs(study="done", role="arm")}
    assert arms.keys() == finished.keys()
    for arm in found.findings.arms:
        assert arms[arm.title].data.tags[NOTE].startswith(f"{arm.title}: Dice {arm.mean:.3f}, ")
        assert arms[arm.title].info.status == "FINISHED"
    assert root.data.metrics["cells/done"] == 2
    assert root.data.metrics["score/best"] == pytest.approx(max(arm.mean for arm in found.findings.arms))
    assert root.data.tags[NOTE] == "\n\n".join(found.findings.verdicts)
    assert "report.html" in {path.name for path in store.artifact(root).rglob("*")}
