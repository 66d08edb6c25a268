"""The end of a study: its finished cells compared, summed up on the arms' runs, one perhaps promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.stages.study.planning import StudyTraining
from medmim.tracking.comparison.champion import Promotion, promote
from medmim.tracking.comparison.findings import Findings, scored
from medmim.tracking.comparison.runs import read_run
from medmim.tracking.comparison.study_cells import placed
from medmim.tracking.comparison.study_report import notes_on, report_on
from medmim.tracking.comparison.tables import summary
from medmim.tracking.mlflow_store import RunRecorder
from medmim.tracking.study_runs import StudyRuns


@dataclass(frozen=True)
class StudyConclusion:
    """What a study says so far.

    Attributes:
        findings: arms, tests, sentences.
        notes: what was not equal or not finished.
        report: path of the page.
        promotion: whether the best arm's model became champion, and why.
        hypotheses: whether evenness of masks and score go together.
    """

    findings: Findings
    notes: tuple[str, ...]
    report: Path
    promotion: Promotion
    hypotheses: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            **self.findings.as_json(),
            "verdicts": self.findings.verdicts,
            "hypotheses": self.hypotheses,
            "notes": self.notes,
            "report": str(self.report),
            "promotion": self.promotion.sentence,
        }


def conclude(
    tree: StudyRuns, root: RunRecorder, tasks: Sequence[StudyTraining], finished: Mapping[str, str]
) -> StudyConclusion | None:
    """Compare the finished cells of a study; None while there is none.

    Args:
        tree: of the study.
        root: records its own run.
        tasks: its trainings.
        finished: digest of a training → id of its run.
    """
    store = tree.store
    tuned = [task for task in tasks if task.job.stage == "finetune"]
    cells = {finished[task.job.digest]: task.cell for task in tuned if task.job.digest in finished}
    all_runs = [placed(read_run(store, store.run(run_id)), cell) for run_id, cell in cells.items()]
    runs = scored(all_runs)
    if not runs:
        return None
    missing = len(tuned) - len(all_runs)
    notes = notes_on(runs)
    if missing:
        notes += (f"{missing} of {len(tuned)} cells are not finished; run the same command again",)
    if len(all_runs) > len(runs):
        notes += (
            f"{len(all_runs) - len(runs)} cells have no score: their test patients show nothing to find",
        )
    reported = report_on(store, runs, title=tree.name, notes=notes)
    findings = reported.findings
    for row in reported.rows:
        arm = tree.arm(cells[row.variant.runs[0]], root=root.run_id)
        arm.metrics(summary(row, findings), step=0)
        arm.finish("FINISHED")
    for path in sorted(reported.page.parent.iterdir()):
        root.file(path, folder="report")
    best = max(findings.variants, key=lambda one: one.mean)
    root.metrics({"score/best": best.mean, "cells/done": float(len(runs))}, step=0)
    promotion = promote(store, runs, findings)
    return StudyConclusion(findings, notes, reported.page, promotion, reported.sentences)
