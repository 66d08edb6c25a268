"""Tables of numbers (CSV) of any tool, such as ages, scored against a table of true numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmim.data.dataset.splits import patient_digest
from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import (
    PredictionSet,
    RejectedCase,
    Row,
    ScoredPredictions,
    patients,
    problem_notes,
    unmatched_images,
)
from medmim.stages.compare_predictions.class_tables import read_table
from medmim.training.evaluation.regression_metrics import regression_means

COLUMN = "value"
_WHY = "R² over patients is tested; a missing prediction counts as the true number farthest from its own"


def score_number_tables(
    sets: Sequence[PredictionSet], labels: Path, subjects: SubjectRule
) -> ScoredPredictions:
    """Score CSV files with the columns image and value.

    Raises:
        UsageError: for a table of another form.
        DataError: for tables without a common image, or labels that are all equal.
    """
    truth = _numbers(labels, "--labels")
    if len(set(truth.values())) < 2:
        raise DataError(f"--labels '{labels.name}': expected two different numbers or more, got one")
    who, note = patients(list(truth), subjects)
    notes, problems = [_WHY, note], list[RejectedCase]()
    rows: list[tuple[Row, ...]] = []
    for one in sets:
        found = _numbers(one.path, one.tool)
        unused, missing = unmatched_images(one, found, truth)
        notes, problems = [*notes, *unused], [*problems, *missing]
        rows.append(tuple(_row(name, found.get(name), truth, who) for name in truth))
    notes += problem_notes(sets, problems, len(truth))
    tables = {"Errors (Bland–Altman limits)": _errors(sets, rows)}
    return ScoredPredictions(tuple(rows), {}, tuple(problems), tuple(notes), tables)


def _numbers(path: Path, where: str) -> dict[str, float]:
    """Return the number of each image."""
    try:
        found = {name: float(row[COLUMN]) for name, row in read_table(path).items()}
    except (KeyError, TypeError, ValueError):
        found = {"": math.nan}
    if not all(map(math.isfinite, found.values())):
        raise UsageError(
            f"{where}: '{path.name}': expected the columns image and {COLUMN}, and finite numbers"
        )
    return found


def _row(name: str, found: float | None, truth: Mapping[str, float], who: Mapping[str, str]) -> Row:
    value = truth[name]
    farthest = max(min(truth.values()), max(truth.values()), key=lambda other: abs(other - value))
    predicted = farthest if found is None else found
    case = {"metric": "r2", "case": patient_digest(name), "patient": who[name]}
    return {**case, "value": value, "predicted": predicted, "hd95_mm": None}


def _errors(sets: Sequence[PredictionSet], rows: Sequence[Sequence[Row]]) -> list[dict[str, str]]:
    """Return MAE, RMSE, Spearman's ρ, bias and limits of agreement of each set of predictions."""
    table = []
    for one, own in zip(sets, rows, strict=True):
        means = regression_means([{**row, "subject": row["patient"]} for row in own])
        table.append({"tool": one.tool, **{name: f"{value:.4g}" for name, value in means.items()}})
    return table
