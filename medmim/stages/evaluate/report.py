"""The report of an evaluation: one self-contained HTML page, its figures, and its tables as CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import files
from medmim.pages import render_page
from medmim.text_formats import csv_text
from medmim.training.evaluation.figures import scores_figure

PAGE = "report.html"
_TEMPLATE = Path(__file__).with_name("evaluation_page.html")
_WORST = 10


@dataclass(frozen=True)
class GroupScores:
    """Scores of a subgroup, or of all cases."""

    title: str
    cases: int
    scores: Sequence[Mapping[str, Any]]
    patients: Mapping[str, float]

    def score(self, metric: str) -> Mapping[str, Any] | None:
        """Return the row of a metric, None where it is undefined."""
        return next((row for row in self.scores if row["metric"] == metric), None)


def write_report(
    out: Path,
    groups: Sequence[GroupScores],
    *,
    metric: str,
    title: str,
    facts: Mapping[str, Any],
    contamination: tuple[str, bool],
    notes: Sequence[str],
    pictures: Mapping[str, bytes | None],
) -> None:
    """Write the page with its PNG and CSV files.

    Args:
        pictures: `panel`: predictions of a few cases; `summary`: of all, such as a confusion matrix.
    """
    drawn = {**pictures, "scores": _chart(groups, metric)}
    for name, png in drawn.items():
        if png:
            files.write_bytes(out / f"{name}.png", png)
    titles = [{"subgroup": one.title, "cases": one.cases} for one in groups]
    every = [_row(first, row) for first, one in zip(titles, groups, strict=True) for row in one.scores]
    files.write_text(out / "scores.csv", csv_text(every, list(every[0]) if every else ()))
    imperfect = ((who, value) for who, value in groups[0].patients.items() if value < 1)
    worst = sorted(imperfect, key=lambda pair: pair[1])[:_WORST]
    page = render_page(
        _TEMPLATE,
        title=title,
        facts=facts,
        contamination=contamination[0],
        contaminated=contamination[1],
        notes=notes,
        metric=metric,
        scores=[_row({}, row) for row in groups[0].scores],
        groups=[row for row in every if row["metric"] == metric and row["subgroup"] != groups[0].title],
        worst=[{"patient": who, metric: f"{value:.3f}"} for who, value in worst],
        pictures=drawn,
    )
    files.write_text(out / PAGE, page)


def _chart(groups: Sequence[GroupScores], metric: str) -> bytes:
    """Draw the patients of each group, and its score with the confidence interval."""
    rows = []
    for group in groups:
        row = group.score(metric) or {"value": None, "low": None, "high": None}
        interval = None if row["low"] is None else (row["low"], row["high"])
        title, patients = f"{group.title} ({group.cases})", list(group.patients.values())
        rows.append((title, patients, row["value"], interval))
    return scores_figure(rows, f"{metric}: each patient, and the score with its 95 % interval")


def _row(first: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = ("" if row[end] is None else f"{row[end]:.3f}" for end in ("low", "high"))
    score = {"metric": row["metric"], "value": f"{row['value']:.3f}", "95 % low": low, "95 % high": high}
    return {**first, **score, "patients": row["patients"]}
