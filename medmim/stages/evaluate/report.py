"""The report of an evaluation: one self-contained HTML page, its figures, and its tables as CSV and JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from medmim import files
from medmim.pages import render_page
from medmim.text_formats import csv_text
from medmim.training.evaluation.figures import plain, to_png

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
    panel: bytes | None,
) -> None:
    """Write the page with its PNG and CSV files."""
    chart = scores_figure(groups, metric)
    for name, png in {"scores.png": chart, "panel.png": panel}.items():
        if png:
            files.write_bytes(out / name, png)
    titles = [{"subgroup": one.title, "cases": one.cases} for one in groups]
    every = [_row(first, row) for first, one in zip(titles, groups, strict=True) for row in one.scores]
    files.write_text(out / "scores.csv", csv_text(every, list(every[0]) if every else ()))
    worst = sorted(groups[0].patients.items(), key=lambda pair: pair[1])[:_WORST]
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
        chart=_encoded(chart),
        panel=_encoded(panel) if panel else "",
    )
    files.write_text(out / PAGE, page)


def scores_figure(groups: Sequence[GroupScores], metric: str) -> bytes:
    """Draw the patients of each group, and its score with the confidence interval."""
    figure = Figure(figsize=(9, 1.2 + 0.45 * max(len(groups), 2)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for height, group in enumerate(groups):
        own = list(group.patients.values())
        axes.plot(own, [height] * len(own), "|", color="#9aa5b1", markersize=12)
        if row := group.score(metric):
            value, low, high = row["value"], row["low"], row["high"]
            ends = [[0.0], [0.0]] if low is None else [[max(value - low, 0.0)], [max(high - value, 0.0)]]
            axes.errorbar(value, height, xerr=ends, fmt="o", color="#2a9d8f", capsize=4)
    axes.set_yticks(range(len(groups)), [plain(f"{one.title} ({one.cases})") for one in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}: each patient, and the score with its 95 % interval")
    return to_png(figure)


def _row(first: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = ("" if row[end] is None else f"{row[end]:.3f}" for end in ("low", "high"))
    score = {"metric": row["metric"], "value": f"{row['value']:.3f}", "95 % low": low, "95 % high": high}
    return {**first, **score, "patients": row["patients"]}


def _encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()
