"""`medmim report`: one page that links all reports and shows models, runs and training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medmim import files
from medmim.pages import render_page
from medmim.stages.store_listing import ListedRun, metric_histories
from medmim.text_formats import parse_json

_TEMPLATE = Path(__file__).with_name("report_index.html")
_REPORT = "report.html"
_CURVES = 24
_WIDTH, _HEIGHT, _TOP = 320, 84, 18  # of the plotted area, in units of the SVG


@dataclass(frozen=True)
class _Report:
    """A link to the report of a comparison, with its first finding."""

    title: str
    link: str
    date: str
    words: str


@dataclass(frozen=True)
class _Curve:
    """A metric during training as the points of a polyline, with the numbers at its axes."""

    title: str
    key: str
    points: str
    lowest: str
    highest: str
    last: str
    steps: int


Rows = Sequence[Sequence[str]]


def write_index(home: Path, *, heads: Rows, cells: Sequence[Rows], newest: Sequence[ListedRun]) -> Path:
    """Write `reports/index.html` in a home folder, with tables of models and of runs, and return its path."""
    models, runs = (
        [dict(zip(head, row, strict=True)) for row in rows] for head, rows in zip(heads, cells, strict=True)
    )
    page = render_page(
        _TEMPLATE,
        title="reports and runs",
        reports=_reports(home),
        models=models,
        runs=runs,
        curves=_curves(home, newest[:_CURVES]),
    )
    place = home / "reports" / "index.html"
    files.write_text(place, page)
    return place


def _reports(home: Path) -> list[_Report]:
    pages = sorted((home / "reports").glob(f"*/{_REPORT}"), key=lambda page: -page.stat().st_mtime)
    return [
        _Report(
            title=page.parent.name,
            link=f"{page.parent.name}/{_REPORT}",
            date=f"{datetime.fromtimestamp(page.stat().st_mtime, UTC):%Y-%m-%d %H:%M}",
            words=_first_finding(page.parent / "findings.json"),
        )
        for page in pages
    ]


def _first_finding(path: Path) -> str:
    """Return the first sentence of a comparison, or the names of its arms; nothing if it cannot be read."""
    try:
        findings = parse_json(path.read_text(encoding="utf-8"))
        verdicts = findings["verdicts"] or [", ".join(arm["name"] for arm in findings["arms"])]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(verdicts[0])


def _curves(home: Path, runs: Sequence[ListedRun]) -> list[_Curve]:
    """Return the training loss and the validation score of runs, where they have two points."""
    titles: dict[tuple[str, str], str] = {}
    for run in runs:
        score = f"val/{run.tags['metric']}" if "metric" in run.tags else "val/loss"
        title = f"{run.run_id[:8]} {run.task}, {run.tags.get('arm', '')}"
        titles |= {(run.run_id, key): title for key in ("train/loss", score)}
    histories = metric_histories(home, list(titles))
    return [_curve(titles[one], one[1], points) for one, points in histories.items() if len(points) > 1]


def _curve(title: str, key: str, points: Sequence[tuple[int, float]]) -> _Curve:
    steps, values = zip(*points, strict=True)
    low, high, end = min(values), max(values), max(steps)
    unit = (high - low) or 1.0
    placed = [
        f"{_WIDTH * step / end:.1f},{_TOP + _HEIGHT * (high - value) / unit:.1f}" for step, value in points
    ]
    return _Curve(title, key, " ".join(placed), f"{low:.3g}", f"{high:.3g}", f"{values[-1]:.3g}", end)
