"""The report of a comparison: one self-contained HTML page, its figures, and its tables as CSV and JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from medmim import files
from medmim.pages import render_page
from medmim.text_formats import csv_text
from medmim.tracking.comparison.figures import HEADINGS, figures
from medmim.tracking.comparison.findings import Findings
from medmim.tracking.comparison.runs import RunScores
from medmim.tracking.comparison.tables import arm_rows, case_rows, contrast_rows

PAGE = "report.html"
_TEMPLATE = Path(__file__).with_name("comparison_page.html")
_PANEL_WIDTH = 560
_PROVENANCE = (
    *("dataset", "dataset_hash", "split_hash", "task", "labelled", "encoder", "dims", "size", "budget"),
    *("batch_size", "lr", "medmim_version"),
)


def write_report(
    folder: Path,
    findings: Findings,
    runs: Sequence[RunScores],
    *,
    title: str,
    notes: Sequence[str] = (),
    tables: Mapping[str, Sequence[Mapping[str, str]]] = MappingProxyType({}),
) -> Path:
    """Write the page with its PNG, CSV and JSON files into a folder; return the path of the page."""
    images = figures(findings)
    for name, png in images.items():
        files.write_bytes(folder / f"{name}.png", png)
    arms, contrasts = arm_rows(findings), contrast_rows(findings)
    files.write_text(folder / "arms.csv", csv_text(arms))
    files.write_text(folder / "contrasts.csv", csv_text(contrasts))
    files.write_text(folder / "cases.csv", csv_text(case_rows(findings)))
    files.write_json(folder / "findings.json", findings.as_json())
    page = render_page(
        _TEMPLATE,
        title=title,
        findings=findings,
        notes=[*notes, *findings.warnings],
        figures=[(HEADINGS[name], png) for name, png in images.items()],
        scores=_compact([_columns(row, to="seeds") for row in arms]),
        details=[{"arm": row["arm"], **_columns(row, after="seeds")} for row in arms],
        contrasts=_compact(contrasts),
        tables=tables,
        panels=[(arm.title, _small(png)) for arm in findings.arms for png in arm.panels],
        provenance=[{"setting": key, "value": value} for key, value in provenance(runs).items()],
    )
    files.write_text(folder / PAGE, page)
    return folder / PAGE


def provenance(runs: Sequence[RunScores]) -> Mapping[str, str]:
    """Return dataset, split and main settings; a value is shown where it is the same in all runs."""
    found = {}
    for key in _PROVENANCE:
        values = sorted({run.tags.get(key, "") for run in runs})
        found[key] = values[0] if len(values) == 1 else f"{len(values)} different"
    return {key: value for key, value in found.items() if value}


def _columns(row: Mapping[str, str], *, to: str = "", after: str = "") -> dict[str, str]:
    """Return the columns of a row up to and including one, or those after one."""
    end = list(row).index(to or after) + 1
    return dict(list(row.items())[:end] if to else list(row.items())[end:])


def _compact(rows: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return rows for the page: the ends of an interval in one column, without what the footer states."""
    compact = []
    for row in rows:
        cells = {"95 % interval" if key == "95 % low" else key: value for key, value in row.items()}
        if high := cells.pop("95 % high", ""):
            cells["95 % interval"] += f"\u00a0to\u00a0{high}"  # on one line
        cells.pop("interval over", None)
        compact.append(cells)
    return compact


def _small(png: bytes) -> bytes:
    """Return a figure small enough that thirty of them fit a page that can be sent by mail."""
    with Image.open(io.BytesIO(png)) as image:
        image.thumbnail((_PANEL_WIDTH, 4 * _PANEL_WIDTH))
        buffer = io.BytesIO()
        image.convert("RGB").quantize(128).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
