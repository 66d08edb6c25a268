"""A study as files: one self-contained HTML page, its pictures, and its tables as CSV and JSON."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from medmim import __version__, files
from medmim.data.dataset.manifest import digest_of
from medmim.tracking.comparison.figures import figures
from medmim.tracking.comparison.findings import Findings
from medmim.tracking.comparison.runs import TITLES, Arm, Comparison, Finetuned
from medmim.tracking.comparison.tables import ArmRow, arm_rows, as_csv, case_rows, contrast_rows
from medmim.training.evaluation.figures import plain, to_png

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}
th,td{padding:.35rem .8rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}img{max-width:100%}.verdict{font-size:1.1rem}
.warning{color:#8a4b00}footer{color:#777;margin-top:2rem;font-size:.85rem}"""


def write_report(folder: Path, comparison: Comparison, runs: Sequence[Finetuned]) -> Path:
    """Write report.html, comparison.png, arms.csv and cases.csv; return the path of the page."""
    picture = draw(comparison)
    target = folder / digest_of(sorted(run.run_id for run in runs))[:12]
    files.write_bytes(target / "comparison.png", picture)
    files.write_text(target / "arms.csv", _csv(_arm_rows(comparison.arms)))
    files.write_text(target / "cases.csv", _csv(_case_rows(runs)))
    files.write_text(target / "report.html", _page(comparison, runs, picture))
    return target / "report.html"


def draw(comparison: Comparison) -> bytes:
    """Draw each arm's patients and mean, and beside it the paired differences with their intervals."""
    arms, pairs = comparison.arms, comparison.pairs
    figure = Figure(figsize=(9, 1.6 + 0.7 * max(len(arms), 2)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for height, arm in enumerate(arms):
        values = list(arm.patients.values())
        left.plot(values, [height] * len(values), "|", color="#9aa5b1", markersize=12)
        left.errorbar(
            arm.score.mean,
            height,
            xerr=[[arm.score.mean - arm.score.low], [arm.score.high - arm.score.mean]],
            fmt="o",
            color="#0b6e4f",
            capsize=4,
        )
    left.set_yticks(range(len(arms)), [plain(arm.name) for arm in arms])
    left.set_ylim(len(arms) - 0.5, -0.5)
    title = TITLES[arms[0].metric]
    left.set_xlabel(f"{title}: each test patient, all of them and 95 % interval")
    for height, pair in enumerate(pairs):
        d = pair.difference
        right.errorbar(
            100 * d.mean,
            height,
            xerr=[[100 * (d.mean - d.low)], [100 * (d.high - d.mean)]],
            fmt="o",
            color="#1d3557" if d.excludes_zero() else "#9aa5b1",
            capsize=4,
        )
    right.axvline(0, color="#c1121f", linewidth=1)
    right.set_yticks(range(len(pairs)), [plain(f"{pair.first}\n− {pair.second}") for pair in pairs])
    right.set_ylim(max(len(pairs), 1) - 0.5, -0.5)
    right.set_xlabel(f"paired difference, points of {title} (95 % interval)")
    return to_png(figure)


def _page(comparison: Comparison, runs: Sequence[Finetuned], picture: bytes) -> str:
    encoded = base64.b64encode(picture).decode()
    verdicts = "".join(f'<p class="verdict">{html.escape(text)}</p>' for text in comparison.verdicts)
    notes = [f'<p class="warning">Note: {html.escape(text)}.</p>' for text in comparison.warnings]
    keys = ("dataset_hash", "split_hash", "task", "labelled", "budget", "encoder", "size", "dims")
    provenance = [{"key": key, "value": runs[0].tags.get(key, "")[:16]} for key in keys]
    identities = [{"arm": run.arm, "seed": run.tags.get("seed", ""), "run": run.run_id} for run in runs]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>medmim comparison</title>'
        f"<style>{_STYLE}</style><h1>Did pretraining help?</h1>{verdicts}{''.join(notes)}"
        f'<img alt="score of each arm and paired differences" src="data:image/png;base64,{encoded}">'
        f"<h2>Arms</h2>{_table(_arm_rows(comparison.arms))}"
        f"<h2>Runs</h2>{_table(identities)}<h2>Held equal</h2>{_table(provenance)}"
        f"<footer>medmim {__version__}. Intervals: bias-corrected bootstrap over patients. "
        "Dice of a case: 1 when prediction and label are both empty; HD95 where neither is. F1 and AP50 are "
        "of all cases of the drawn patients together.</footer></html>"
    )


def _arm_rows(arms: Sequence[Arm]) -> list[dict[str, str]]:
    rows = []
    for arm in arms:
        row = {
            "arm": arm.name,
            TITLES[arm.metric]: f"{arm.score.mean:.3f}",
            "95 % interval": f"{arm.score.low:.3f} … {arm.score.high:.3f}",
            "sd": f"{arm.score.sd:.3f}",
            **({} if arm.hd95_mm is None else {"HD95 mm": f"{arm.hd95_mm:.2f}"}),
            "patients": str(arm.score.n),
            "seeds": str(len(arm.seeds)),
        }
        title = TITLES[arm.metric]
        rows.append(row | {f"{title} {name}": f"{value:.3f}" for name, value in arm.by_label.items()})
    return rows


def _case_rows(runs: Sequence[Finetuned]) -> list[dict[str, str]]:
    return [
        {"arm": run.arm, "seed": run.tags.get("seed", ""), **{key: str(value) for key, value in row.items()}}
        for run in runs
        for row in run.cases
    ]


def _table(rows: Sequence[dict[str, str]]) -> str:
    columns = _columns(rows)
    head = "".join(f"<th>{html.escape(key)}</th>" for key in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(row.get(key, ''))}</td>" for key in columns) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the keys of all rows: an arm trained on few labels may know fewer classes than another."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _csv(rows: Sequence[dict[str, str]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_columns(rows), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


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
    rows: Sequence[ArmRow]
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


def _panels(rows: Sequence[ArmRow]) -> str:
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
