"""Tables of classes that do not exclude each other (CSV) of any tool, scored against a table of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
from medmim.stages.compare_predictions.class_tables import IMAGE_COLUMNS, read_table
from medmim.training.evaluation.multilabel_metrics import THRESHOLD, columns_of

_KNOWN = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_UNKNOWN = {"", "-1", "-1.0", "nan"}
_WHY = (
    f"macro AUROC is tested; F1 takes classes from a probability of {THRESHOLD}; empty labels and -1 are "
    "unknown and not scored; an image without a prediction counts as wrong in every class"
)


def score_multilabel_tables(
    sets: Sequence[PredictionSet], labels: Path, subjects: SubjectRule
) -> ScoredPredictions:
    """Score CSV files with the column image and a column of probabilities for each class of the labels.

    Raises:
        UsageError: for labels of another form.
        DataError: for predictions that lack a class or all images.
    """
    truth, names = _truth(labels)
    who, note = patients(list(truth), subjects)
    notes, problems = [_WHY, note], list[RejectedCase]()
    rows: list[tuple[Row, ...]] = []
    for one in sets:
        found = _predicted(one, names)
        unused, missing = unmatched_images(one, found, truth)
        notes, problems = [*notes, *unused], [*problems, *missing]
        rows.append(tuple(_row(name, found.get(name), truth[name], names, who[name]) for name in truth))
    notes += problem_notes(sets, problems, len(truth))
    tables = {"Classes": _classes(sets, rows, names)}
    return ScoredPredictions(tuple(rows), {}, tuple(problems), tuple(notes), tables)


def _truth(labels: Path) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the known classes of each image, and the names of all classes."""
    table = read_table(labels)
    names = [name for name in next(iter(table.values())) if name and name not in IMAGE_COLUMNS]
    values = {str(row[name] or "").strip().lower() for row in table.values() for name in names}
    if not names or values - _KNOWN.keys() - _UNKNOWN or len(values & _KNOWN.keys()) < 2:
        raise UsageError(
            f"--labels '{labels.name}': expected the columns image and label (or grade, or value), or a "
            f"column of 0 and 1 for each class, got {', '.join(names) or 'image alone'}"
        )
    found = {
        image: {
            name: _KNOWN[text] for name in names if (text := str(row[name] or "").strip().lower()) in _KNOWN
        }
        for image, row in table.items()
    }
    return found, names


def _predicted(one: PredictionSet, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the probability of each class by image."""
    try:
        found = {
            image: {name: float(row[name]) for name in names} for image, row in read_table(one.path).items()
        }
        outside = any(not 0 <= value <= 1 for shares in found.values() for value in shares.values())
    except (KeyError, TypeError, ValueError):
        outside = True
    if outside:
        raise DataError(
            f"{one.tool}: expected a column of probabilities from 0 to 1 for each of {', '.join(names)}; "
            "correct the table"
        )
    return found


def _row(
    name: str, found: Mapping[str, float] | None, known: Mapping[str, int], names: Sequence[str], patient: str
) -> Row:
    shares = {
        one: (1.0 - known[one] if one in known else 0.5) if found is None else found[one] for one in names
    }
    return {
        **{"metric": "macro_auroc", "case": patient_digest(name), "patient": patient, "hd95_mm": None},
        "labels": known,
        "found": [one for one in names if shares[one] >= THRESHOLD],
        "probabilities": shares,
    }


def _classes(
    sets: Sequence[PredictionSet], rows: Sequence[Sequence[Row]], names: Sequence[str]
) -> list[dict[str, str]]:
    """Return AUROC, F1, calibration error and the numbers of cases of each class by tool."""
    table = []
    for one, own in zip(sets, rows, strict=True):
        weights = np.ones(len(own))
        for name, column in columns_of(own, names).items():
            positives, negatives = column.counts(weights)
            scores = {"AUROC": column.auroc(weights), "F1": column.f1(weights)}
            scores["calibration error"] = column.calibration_error(weights)
            shown = {key: f"{value:.4f}" if np.isfinite(value) else "–" for key, value in scores.items()}
            counts = {"present": f"{positives:g}", "absent": f"{negatives:g}"}
            table.append({"tool": one.tool, "class": name, **counts, **shown})
    return table
