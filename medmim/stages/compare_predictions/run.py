"""Compare predictions of any tools with labels: paired tests, sentences and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmim.data.dataset.manifest import digest_of
from medmim.data.dataset.splits import patient_digest
from medmim.errors import UsageError
from medmim.stages.compare import CompareResult
from medmim.stages.compare_predictions.boxes import score_boxes
from medmim.stages.compare_predictions.cases import (
    PredictionSet,
    Progress,
    RejectedCase,
    Row,
    ScoredPredictions,
    prediction_sets,
)
from medmim.stages.compare_predictions.class_tables import CLASS_COLUMNS, read_table, score_class_tables
from medmim.stages.compare_predictions.label_maps import MapOptions, score_label_maps
from medmim.stages.compare_predictions.multilabel_tables import score_multilabel_tables
from medmim.stages.compare_predictions.number_tables import COLUMN, score_number_tables
from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.report import write_report
from medmim.tracking.comparison.runs import RunScores
from medmim.training.evaluation.metric_intervals import interval


@dataclass(frozen=True)
class PredictionComparison:
    """A comparison of predictions."""

    compared: CompareResult
    problems: tuple[RejectedCase, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        problems = [{"tool": one.tool, "case": one.case, "reason": one.reason} for one in self.problems]
        return {**self.compared.as_json(), "problems": problems}


def compare_predictions(
    predictions: Sequence[str], labels: Path, options: MapOptions, *, home: Path, progress: Progress
) -> PredictionComparison:
    """Score sets of predictions, compare them and write the report.

    A repeated NAME of `NAME=PATH` has several trainings, which count as seeds. The labels are a folder of
    label maps, a CSV file of classes, grades or numbers, or a JSON file of boxes (COCO).
    """
    sets = prediction_sets(predictions)
    scored = _scored(sets, labels, options, progress)
    runs = [
        RunScores(
            run_id=f"{one.tool}/{one.seed}",
            arm=one.tool,
            tags={"seed": str(one.seed)},
            cases=rows,
            from_files=True,
        )
        for one, rows in zip(sets, scored.rows, strict=True)
    ]
    findings = find(runs)
    title = " and ".join(sorted({one.tool for one in sets}))
    folder = home / "reports" / f"predictions-{digest_of(sorted(predictions))[:12]}"
    lost = [
        {"tool": one.tool, "case": patient_digest(one.case), "reason": one.words} for one in scored.problems
    ]
    tables = {
        "Cases counted as wrong": lost,
        "Further metrics, described but not tested": described_rows(sets, scored),
        **scored.tables,
    }
    notes = (*scored.notes, *_note_on_common_cases(sets, scored, findings.metric))
    page = write_report(folder, findings, runs, title=title, notes=notes, tables=tables)
    return PredictionComparison(CompareResult(findings, notes, page, tuple(runs)), scored.problems)


def _scored(
    sets: Sequence[PredictionSet], labels: Path, options: MapOptions, progress: Progress
) -> ScoredPredictions:
    """Score label maps of a folder, classes or numbers of a CSV file, or boxes of a JSON file."""
    kind = labels.suffix.lower()
    if kind not in (".csv", ".json"):
        return score_label_maps(sets, labels, options, progress)
    if options.metrics:
        raise UsageError("--metrics is for label maps: classes are compared by macro-F1, boxes by AP50")
    if kind == ".json":
        return score_boxes(sets, labels, options.subjects)
    columns = next(iter(read_table(labels).values())).keys()
    if columns & set(CLASS_COLUMNS):
        return score_class_tables(sets, labels, options.subjects)
    score = score_number_tables if COLUMN in columns else score_multilabel_tables
    return score(sets, labels, options.subjects)


def _note_on_common_cases(sets: Sequence[PredictionSet], scored: ScoredPredictions, metric: str) -> list[str]:
    """Return the means over the cases that every tool has, where some lack cases."""
    lost = {patient_digest(one.case) for one in scored.problems}
    if not lost or "label" not in scored.rows[0][0]:  # other metrics are not means over cases
        return []
    means = []
    for tool in sorted({one.tool for one in sets}):
        rows = [row for row in _rows_of(tool, sets, scored) if row["case"] not in lost]
        values = _by_patient(rows, str(rows[0]["metric"])) if rows else []
        means.append(f"{tool} {np.mean(values):.3f}" if values else f"{tool} –")
    return [f"mean {metric} over the cases that every tool has, for comparison only: {', '.join(means)}"]


def _rows_of(tool: str, sets: Sequence[PredictionSet], scored: ScoredPredictions) -> list[Row]:
    pairs = zip(sets, scored.rows, strict=True)
    return [row for one, found in pairs if one.tool == tool for row in found]


def described_rows(sets: Sequence[PredictionSet], scored: ScoredPredictions) -> list[dict[str, str]]:
    """Return the mean of each described metric over patients, with its 95 % interval, by tool."""
    table = []
    for tool in dict.fromkeys(one.tool for one in sets):
        rows = _rows_of(tool, sets, scored)
        for title, key in scored.described.items():
            values = _by_patient(rows, key)
            known = [row for row in rows if row.get(key) is not None]
            without = [(sum(values) - one) / max(len(values) - 1, 1) for one in values]
            ends = interval(key, float(np.mean(values)), without) if values else None
            table.append(
                {
                    "tool": tool,
                    "metric": title,
                    "mean": f"{np.mean(values):.4f}" if values else "–",
                    "95 % interval": f"{ends[0]:.4f} … {ends[1]:.4f}" if ends else "–",
                    "patients": str(len(values)),
                    "undefined": f"{len(rows) - len(known)} of {len(rows)}",
                }
            )
    return table


def _by_patient(rows: Sequence[Row], key: str) -> list[float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key) is not None:
            found.setdefault(str(row["patient"]), []).append(float(row[key]))
    return [float(np.mean(values)) for values in found.values()]
