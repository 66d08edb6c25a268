"""`medmim compare`: fine-tuning runs, or a whole study, become one table, verdicts and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medmim.errors import RunError
from medmim.tracking.comparison.champion import Promotion, promote
from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.report import write_report
from medmim.tracking.comparison.runs import Comparison, compare, find_runs
from medmim.tracking.comparison.study_cells import finished_cells
from medmim.tracking.comparison.study_report import StudyReport, notes_on, report_on
from medmim.tracking.mlflow_store import Store


@dataclass(frozen=True)
class CompareResult:
    """A comparison and where its report lies; `promotion` where one was asked for."""

    comparison: Comparison
    report: Path
    promotion: Promotion | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        asked = {"promotion": asdict(self.promotion)} if self.promotion else {}
        return {**self.comparison.as_json(), "report": str(self.report), **asked}


@dataclass(frozen=True)
class CompareStudyResult:
    """The same of a study, with the tests over patients and seeds that it makes possible."""

    reported: StudyReport
    notes: tuple[str, ...]
    promotion: Promotion | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        found = self.reported.findings
        words = found.as_json()
        asked = {"promotion": asdict(self.promotion)} if self.promotion else {}
        return {
            **words,
            "pairs": words["contrasts"],
            "verdicts": found.verdicts,
            "hypotheses": list(self.reported.sentences),
            "warnings": list(self.notes),
            "report": str(self.reported.page),
            **asked,
        }


def compare_runs(run_ids: Sequence[str], *, home: Path, promoting: bool = False) -> CompareResult:
    """Compare the named runs, or all that are comparable with the newest.

    Args:
        run_ids: fine-tuning runs; empty: all comparable ones.
        home: `MEDMIM_HOME`.
        promoting: make the best arm's model champion if the paired test says so.

    Raises:
        RunError: if there is nothing to compare.
    """
    store = Store(home)
    runs = find_runs(store, run_ids)
    comparison = compare(runs)
    promotion = promote(store, runs, find(runs)) if promoting else None
    return CompareResult(comparison, write_report(home / "reports", comparison, runs), promotion)


def compare_study(name: str, *, home: Path, promoting: bool = False) -> CompareStudyResult:
    """Compare all finished cells of a study.

    Args:
        name: of the study.
        home: `MEDMIM_HOME`.
        promoting: as in `compare_runs`.

    Raises:
        RunError: if no cell of it is finished.
    """
    store = Store(home)
    runs, earlier = finished_cells(store, name)
    if not runs:
        raise RunError(f"study '{name}' has no finished cell here: run `medmim study` first")
    notes = notes_on(runs)
    if earlier:
        notes += (f"{earlier} finished cells of an earlier plan of this name are left out",)
    reported = report_on(store, runs, title=name, notes=notes)
    return CompareStudyResult(reported, notes, promote(store, runs, reported.findings) if promoting else None)


def newest_study(home: Path) -> str | None:
    """Return the study that the newest fine-tuning run belongs to; None when it belongs to none."""
    tuned = Store(home).runs(stage="finetune")
    return tuned[0].data.tags.get("study") if tuned else None
