"""Conclusion of a study: compare its finished trials and record the results in the runs of its arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medmim.config.study import seeds_command
from medmim.errors import counted
from medmim.stages.compare import CompareResult, compare
from medmim.stages.study.planning import StudyTraining
from medmim.tracking.comparison.arms import Arm
from medmim.tracking.comparison.findings import scored
from medmim.tracking.comparison.runs import read_run
from medmim.tracking.comparison.tables import summary
from medmim.tracking.mlflow_recorder import MlflowRecorder
from medmim.tracking.recorder_interface import NOTE
from medmim.tracking.study_runs import StudyRuns, placed


def conclude(
    study_runs: StudyRuns,
    root: MlflowRecorder,
    trainings: Sequence[StudyTraining],
    finished: Mapping[str, str],
    *,
    varied: Sequence[str] = (),
    promoting: bool = False,
    config: str = "",
) -> CompareResult | None:
    """Compare the finished trials of a study; return None if no trial has a score.

    `finished` maps the digest of a training to the id of its run; `varied` are the pretraining settings that
    differ between the arms listed under `arms`; `config` is the word of the command that names the study.
    """
    store = study_runs.store
    finetunings = [one for one in trainings if one.job.stage == "finetune"]
    trials = {finished[one.job.digest]: one.trial for one in finetunings if one.job.digest in finished}
    runs = [placed(read_run(store, store.run(run_id)), trial) for run_id, trial in trials.items()]
    for trial in {(one.arm, one.stratum): one for one in trials.values()}.values():
        study_runs.arm(trial, root=root.run_id).finish("FINISHED")  # whatever becomes of the comparison
    if not scored(runs):
        return None
    compared = compare(
        store,
        runs,
        title=study_runs.name,
        missing=len(finetunings) - len(runs),
        varied=varied,
        command=seeds_command(config or study_runs.name),
        promoting=promoting,
    )
    findings = compared.findings
    for arm in findings.arms:
        recorder = study_runs.arm(trials[arm.runs[0]], root=root.run_id)
        recorder.metrics(summary(arm, findings), step=0)
        recorder.tags({NOTE: _described(arm, findings.metric)})
        recorder.finish("FINISHED")
    for path in sorted(compared.report.parent.iterdir()):
        root.file(path, folder="report")
    root.tags({NOTE: "\n\n".join(findings.verdicts)})
    best = max(arm.mean for arm in findings.arms)
    root.metrics({"score/best": best, "cells/done": float(len(compared.runs))}, step=0)
    return compared


def _described(arm: Arm, metric: str) -> str:
    """Return the description of an arm on its page of the UI."""
    interval = (
        "no interval" if arm.interval is None else "95 % interval {:.3f} to {:.3f}".format(*arm.interval)
    )
    return (
        f"{arm.title}: {metric} {arm.mean:.3f}, {interval}, {counted(len(arm.patients), 'test patient')}, "
        f"{counted(len(arm.seeds), 'training seed')}; test patients seen in training: {arm.contamination}"
    )
