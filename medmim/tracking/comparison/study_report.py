"""From finished fine-tuning runs to findings and a page: what `study` and `compare` share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from mlflow.entities import Run

from medmim.config.study import SCRATCH
from medmim.masks import build_mask
from medmim.masks.statistics import mask_statistics
from medmim.randomness import torch_stream
from medmim.shapes import as_size, grid_of
from medmim.tracking.comparison.findings import Findings, Variant, find
from medmim.tracking.comparison.report import Report, write_study
from medmim.tracking.comparison.runs import Finetuned
from medmim.tracking.comparison.tables import ArmRow
from medmim.tracking.mlflow_store import Store
from medmim.tracking.statistics.mask_evenness import evenness_and_score, unevenness

_CARD_DRAWS = 64
_HELD_EQUAL = ("dataset_hash", "task", "encoder", "dims", "size", "batch_size", "lr", "budget")
_LOGGED = re.compile(r"(?:reconstruction|test).step.\d+.timestamp.(\d+)")
_SHOWN = ("dataset", "dataset_hash", "split_hash", "task", "labelled", "encoder", "dims", "size", "budget")


@dataclass(frozen=True)
class StudyReport:
    """Findings, the table behind them, where the page lies, and what evenness has to do with the score."""

    findings: Findings
    rows: tuple[ArmRow, ...]
    page: Path
    sentences: tuple[str, ...]


def report_on(store: Store, runs: Sequence[Finetuned], *, title: str, notes: Sequence[str]) -> StudyReport:
    """Compare runs and write the page.

    Args:
        store: where they and their pretrainings are.
        runs: finished fine-tuning runs.
        title: of the page and its folder.
        notes: warnings.
    """
    findings = find(runs)
    rows = tuple(_row(store, variant, runs) for variant in findings.variants)
    pretrained = [row for row in rows if row.card]
    sentences = []
    for stratum in findings.best:  # labels and encoders move scores too: arms are ranked within one
        inside = [row for row in pretrained if row.variant.stratum == stratum]
        found = evenness_and_score(
            [row.card["card/unevenness"] for row in inside], [row.variant.mean for row in inside]
        )
        sentences += [f"{stratum}: {found.sentence}" if stratum else found.sentence] if found else []
    report = Report(title, rows, findings, tuple(sentences), notes, _provenance(runs))
    page = write_study(store.home / "reports" / title, report)
    return StudyReport(findings, rows, page, tuple(sentences))


def notes_on(runs: Sequence[Finetuned]) -> tuple[str, ...]:
    """Return what a reader should know of runs that are compared."""
    notes = []
    seeds = {(run.tags.get("stratum", ""), run.arm): set[str]() for run in runs}
    for run in runs:
        seeds[run.tags.get("stratum", ""), run.arm].add(run.tags["seed"])
    if len({frozenset(found) for found in seeds.values()}) > 1:
        notes.append("the arms were run with different seeds: pairs are compared on those that both have")
    for key in _HELD_EQUAL:
        groups: dict[str, set[str]] = {}
        for run in runs:
            groups.setdefault(run.tags.get("stratum", ""), set()).add(run.tags.get(key, ""))
        if any(len(values) > 1 for values in groups.values()):
            notes.append(f"the cells differ in {key}: their differences are not those of the arms alone")
    if all(len(found) == 1 for found in seeds.values()):
        notes.append("one seed an arm: intervals and tests cover patients, not the chance of training")
    return tuple(notes)


def _row(store: Store, variant: Variant, runs: Sequence[Finetuned]) -> ArmRow:
    mine = [run for run in runs if run.run_id in variant.runs]
    ids = [run.tags.get("pretraining_run", "") for run in mine]
    pretrained = {run_id: store.run(run_id) for run_id in ids if run_id}
    first = next(iter(pretrained.values()), None)
    tags = first.data.tags if first else {}
    ends = [*(pretrained[run_id] for run_id in ids if run_id), *(store.run(run.run_id) for run in mine)]
    panels = [_panel(store, run) for run in (*([first] if first else []), ends[-len(mine)])]
    return ArmRow(
        variant=variant,
        columns={
            "method": tags.get("method", SCRATCH),
            "mask": tags.get("mask", "–"),
            "ratio": tags.get("ratio_requested", "–"),
        },
        costs=_costs(ends, cells=len(mine)),
        card=_card(store, first) if first else {},
        panels=tuple(path.read_bytes() for path in panels if path),
    )


def _panel(store: Store, run: Run) -> Path | None:
    """Return a run's last picture; of an unpacked run, which has no folder of its own, from its artifacts."""
    kept = store.checkpoints(run.info.run_id) / "panel.png"
    if kept.is_file():
        return kept
    logged = [
        (int(found[1]), path)
        for path in store.artifact(run, "images").glob("*.png")
        if (found := _LOGGED.match(path.name))
    ]
    return max(logged)[1] if logged else None


def _costs(ends: Sequence[Run], *, cells: int) -> dict[str, float]:
    """Return what a cell costs, its pretraining with it, as if none were shared; memory is the highest."""
    found = {}
    for key in sorted({key for run in ends for key in run.data.metrics if key.startswith("cost/")}):
        values = [run.data.metrics[key] for run in ends if key in run.data.metrics]
        found[key] = max(values) if "memory" in key else float(np.sum(values)) / cells
    return found


def _card(store: Store, pretraining: Run) -> dict[str, float]:
    """Measure the mask on the grid that the pretraining used."""
    used = yaml.safe_load(store.read_text(pretraining, "settings.yaml"))
    dims = int(used["dims"])
    grid = grid_of(as_size(used["size"], dims, what="size"), as_size(used["cell"], dims, what="cell"))
    mask = build_mask(used["mask"], ratio=used["ratio"], **used["mask_options"])
    hidden = mask.sample(_CARD_DRAWS, grid, generator=torch_stream(0, "card"))
    measured = mask_statistics(hidden, requested_ratio=used["ratio"])
    return {
        "card/unevenness": unevenness(measured.density_variance, measured.realised_ratio),
        "card/distance_to_visible": measured.distance_to_visible,
        "card/realised_ratio": measured.realised_ratio,
    }


def _provenance(runs: Sequence[Finetuned]) -> Mapping[str, str]:
    """Return what the numbers come from; a value is shown where it is the same in all runs."""
    found = {}
    for key in (*_SHOWN, "batch_size", "lr", "medmim_version"):
        values = sorted({run.tags.get(key, "") for run in runs})
        found[key] = values[0] if len(values) == 1 else f"{len(values)} different"
    return found
