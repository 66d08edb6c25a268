"""`medmim compare`: fine-tuning runs, or a whole study, become findings, a report, and perhaps a champion."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim.config.study import seeds_command
from medmim.data.dataset.manifest import digest_of
from medmim.errors import RunError, counted
from medmim.notebook import NotebookResult, Table, read_picture
from medmim.tracking.comparison.arms import arms_of
from medmim.tracking.comparison.champion import Promotion, promote
from medmim.tracking.comparison.descriptions import described
from medmim.tracking.comparison.findings import Findings, find, scored
from medmim.tracking.comparison.report import write_report
from medmim.tracking.comparison.runs import RunScores, find_runs, further_runs
from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_runs import finished_trials
from medmim.training.evaluation.resampled_metrics import metric_of


@dataclass(frozen=True)
class CompareResult(NotebookResult):
    """Findings of a comparison.

    Attributes:
        notes: what was not finished or left out.
        promotion: whether the best arm's model became champion, and why; None where it was not asked for.
    """

    findings: Findings
    notes: tuple[str, ...]
    report: Path
    runs: tuple[RunScores, ...]
    promotion: Promotion | None = None

    def table(self) -> Table:
        """Return a row for each arm: mean score, confidence interval, patients and seeds."""
        rows = [
            [
                arm.title,
                f"{arm.mean:.3f}",
                "{:.3f} to {:.3f}".format(*arm.interval) if arm.interval else "none",
                str(len(arm.patients)),
                str(len(arm.seeds)),
            ]
            for arm in self.findings.arms
        ]
        return [["arm", self.findings.metric, "95 % interval", "patients", "seeds"], *rows]

    def remarks(self) -> Sequence[str]:
        """Return what is unequal, the sentences, the notes and the path of the report."""
        found = self.findings
        promoted = [self.promotion.sentence] if self.promotion else []
        return [
            *(f"unequal: {difference}" for difference in found.differences),
            *found.verdicts,
            *(one.sentence for one in found.evenness),
            *(f"note: {note}" for note in (*self.notes, *found.warnings)),
            *promoted,
            f"report {self.report}",
        ]

    def picture(self) -> bytes | None:
        """Return the figure of the scores."""
        return read_picture(self.report.parent / "scores.png")

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints; an arm's score is repeated under the name of its metric."""
        content = self.findings.as_json()
        metric = metric_of(self.runs[0].cases)
        for arm in content["arms"]:
            score = {"mean": arm["mean"], "low": arm["low"], "high": arm["high"], "sd": arm["sd"]}
            arm |= {
                "metric": metric,
                metric: {**score, "n": arm["n_patients"]},
                f"{metric}_by_label": arm["by_label"],
            }
        asked = {"promotion": asdict(self.promotion)} if self.promotion else {}
        return {
            **content,
            "notes": [*self.notes, *content["warnings"]],
            "warnings": [*self.notes, *content["warnings"]],
            "scores": {run.run_id: list(run.scores) for run in self.runs},
            "report": str(self.report),
            **asked,
        }


def compare_runs(run_ids: Sequence[str], *, home: Path, promoting: bool = False) -> CompareResult:
    """Compare the named fine-tuning runs, or all that are comparable with the newest."""
    store = Store(home, reading=True)
    runs = find_runs(store, run_ids)
    words = f"{runs[0].tags.get('dataset', '')} {runs[0].tags.get('task', '')}"
    digest = digest_of(sorted(run.run_id for run in runs))[:8]
    title = "-".join([*re.findall(r"[\w.]+", words), digest])  # also the name of a folder
    command = " ".join(["medmim compare", *run_ids, "--seeds 2"])
    further = further_runs(store, runs) if run_ids else 0
    notes = [
        f"{counted(further, 'further finished run')} of these arms not compared: claims are invalid if the "
        "runs were selected by their scores"
    ]
    return compare(
        store, runs, title=title, notes=notes[: bool(further)], command=command, promoting=promoting
    )


def compare_study(name: str, *, home: Path, promoting: bool = False) -> CompareResult:
    """Compare all finished trials of a study; one that is not finished promotes nothing.

    Raises:
        RunError: if no trial of it is finished.
    """
    store = Store(home, reading=True)
    trials = finished_trials(store, name)
    if not trials.runs:
        raise RunError(f"study '{name}' has no finished trial here: run `medmim study` first")
    notes = []
    if trials.earlier:
        notes.append(f"left out: {counted(trials.earlier, 'finished trial')} of an earlier plan of this name")
    return compare(
        store,
        trials.runs,
        title=name,
        notes=notes,
        missing=trials.missing,
        varied=trials.varied,
        command=seeds_command(name),
        promoting=promoting,
    )


def compare(
    store: Store,
    runs: Sequence[RunScores],
    *,
    title: str,
    notes: Sequence[str] = (),
    missing: int = 0,
    varied: Collection[str] = (),
    command: str,
    promoting: bool = False,
) -> CompareResult:
    """Compare finished runs and write the report."""
    with_score = scored(runs)
    if missing:
        notes = [
            *notes,
            f"{counted(missing, 'trial is', 'trials are')} not finished; run the same command again",
        ]
    if len(with_score) < len(runs):
        count = len(runs) - len(with_score)
        notes = [
            *notes,
            f"{counted(count, 'run has', 'runs have')} no score: no labelled structure in the test patients",
        ]
    arms = described(store, arms_of(with_score), with_score)
    findings = find(with_score, arms=arms, varied=varied, command=command)
    page = write_report(store.home / "reports" / title, findings, with_score, title=title, notes=notes)
    promotion = promote(store, with_score, findings, missing=missing) if promoting else None
    return CompareResult(findings, tuple(notes), page, tuple(with_score), promotion)


def newest_study(home: Path) -> str | None:
    """Return the study that the newest fine-tuning run belongs to; None when it belongs to none."""
    tuned = Store(home, reading=True).runs(limit=1, stage="finetune")
    return tuned[0].data.tags.get("study") if tuned else None
