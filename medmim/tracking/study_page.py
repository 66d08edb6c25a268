"""A study as files: one self-contained HTML page, its pictures, and its tables as CSV and JSON."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from medmim import __version__, files
from medmim.tracking.findings import Findings
from medmim.tracking.study_figures import figures
from medmim.tracking.study_table import Row, arm_rows, as_csv, case_rows, contrast_rows

PAGE = "report.html"
_PANEL_WIDTH = 560
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:84rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;font-size:.85rem;display:block;overflow-x:auto}
th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th{white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left}img{max-width:100%}
.panels{display:flex;flex-wrap:wrap;gap:1rem}.panels figure{margin:0;width:32rem;max-width:100%}
.claimed{font-weight:600}.warning{color:#8a4b00}footer{color:#666;margin-top:2rem;font-size:.85rem}"""
_TITLES = {
    "heat_map": "Mask and ratio",
    "ratio_curves": "Score over ratio",
    "differences": "Paired differences",
    "patients": "Patient by patient",
}


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: of the study.
        rows: its arms.
        findings: tests and sentences.
        hypotheses: sentences on evenness and score; none where there are too few arms.
        notes: warnings, such as cells that failed.
        provenance: what was held equal, and what the numbers come from.
    """

    title: str
    rows: Sequence[Row]
    findings: Findings
    hypotheses: Sequence[str]
    notes: Sequence[str]
    provenance: Mapping[str, str]


def write_study(folder: Path, report: Report) -> Path:
    """Write the page, PNG, CSV and JSON files into a folder; return the path of the page."""
    pictures = figures(report.rows, report.findings)
    for name, png in pictures.items():
        files.write_bytes(folder / f"{name}.png", png)
    files.write_text(folder / "arms.csv", as_csv(arm_rows(report.rows, report.findings)))
    files.write_text(folder / "contrasts.csv", as_csv(contrast_rows(report.findings)))
    files.write_text(folder / "cases.csv", as_csv(case_rows(report.rows)))
    files.write_json(folder / "findings.json", report.findings.as_json())
    files.write_text(folder / PAGE, page(report, pictures))
    return folder / PAGE


def page(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the page, pictures inside."""
    findings = report.findings
    sentences = "".join(
        f"<li{' class=claimed' if one.claimed else ''}>{html.escape(one.verdict)}</li>"
        for one in findings.contrasts
    )
    sentences += "".join(f"<li>{html.escape(sentence)}</li>" for sentence in report.hypotheses)
    drawn = "".join(
        f"<h2>{_TITLES[name]}</h2>{_picture(png, _TITLES[name])}" for name, png in pictures.items()
    )
    notes = "".join(f'<p class="warning">Note: {html.escape(note)}.</p>' for note in report.notes)
    provenance = [{"what": key, "value": value} for key, value in report.provenance.items()]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>medmim study</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style><h1>Study: {html.escape(report.title)}</h1>{notes}"
        f"<h2>What it shows</h2><ul>{sentences or '<li>nothing to compare yet</li>'}</ul>{drawn}"
        f"<h2>Arms, scores and costs</h2>{table(arm_rows(report.rows, findings))}"
        f"<h2>Paired tests</h2>{table(contrast_rows(findings))}"
        f"<h2>What was hidden, what was rebuilt, what was predicted</h2>{_panels(report.rows)}"
        f"<h2>Provenance</h2>{table(provenance)}"
        f"<footer>medmim {html.escape(__version__)}. Intervals of arms: bootstrap over seeds and patients. "
        "Of differences: paired by seed and patient, seeds' share pooled over the arms. p: the larger of "
        "that test's and a sign-flip permutation's over patients; Holm's procedure holds the whole study to "
        "one false claim in twenty, half of it for “did pretraining help”, half for “which is best”. "
        "Detectable: the smallest true difference that such a study finds four times in five.</footer></html>"
    )


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as an HTML table; columns are those of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(key)}</th>" for key in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(row.get(key, ''))}</td>" for key in columns) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _panels(rows: Sequence[Row]) -> str:
    shown = [
        f"<figure>{_picture(_smaller(png), row.title)}"
        f"<figcaption>{html.escape(row.title)}</figcaption></figure>"
        for row in rows
        for png in row.panels
    ]
    return f'<div class="panels">{"".join(shown)}</div>'


def _smaller(png: bytes) -> bytes:
    """Return a picture small enough that thirty of them fit a page that is sent by mail."""
    with Image.open(io.BytesIO(png)) as image:
        image.thumbnail((_PANEL_WIDTH, 4 * _PANEL_WIDTH))
        buffer = io.BytesIO()
        image.convert("RGB").quantize(128).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _picture(png: bytes, words: str) -> str:
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{encoded}">'
