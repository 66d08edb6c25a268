"""The end of a study: its finished cells compared, summed up on the arms' runs, and written as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow.entities import Run

from medmim.masks import build_mask
from medmim.masks.card import card
from medmim.randomness import torch_stream
from medmim.shapes import as_size, grid_of
from medmim.stages.study_plan import Task
from medmim.study import SCRATCH, Cell
from medmim.tracking.comparison import read_run
from medmim.tracking.evenness import evenness_and_score, unevenness
from medmim.tracking.findings import Findings, Variant, find
from medmim.tracking.store import RunRecorder, Store
from medmim.tracking.study_page import Report, write_study
from medmim.tracking.study_table import Row, summary
from medmim.tracking.tree import Tree

_CARD_DRAWS = 64
_FOLDER = "report"


@dataclass(frozen=True)
class Concluded:
    """What a study says so far.

    Attributes:
        findings: arms, tests, sentences.
        notes: what was not equal or not finished.
        report: path of the page.
    """

    findings: Findings
    notes: tuple[str, ...]
    report: Path

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        found = self.findings.as_json()
        return {**found, "verdicts": self.findings.verdicts, "notes": self.notes, "report": str(self.report)}


def conclude(
    tree: Tree, root: RunRecorder, cells: Sequence[Cell], tasks: Sequence[Task], finished: Mapping[str, str]
) -> Concluded | None:
    """Compare the finished cells of a study; None while there is none.

    Args:
        tree: of the study.
        root: records its own run.
        cells: all of them.
        tasks: their trainings.
        finished: digest of a training → id of its run.
    """
    store = tree.store
    tuned = {task.job.digest: task for task in tasks if task.job.stage == "finetune"}
    runs = {finished[digest]: tuned[digest] for digest in tuned if digest in finished}
    if not runs:
        return None
    findings = find([read_run(store, store.run(run_id)) for run_id in runs])
    rows = [_row(store, variant, runs, finished) for variant in findings.variants]
    pretrained = [row for row in rows if "card/unevenness" in row.card]
    hypothesis = evenness_and_score(
        [row.card["card/unevenness"] for row in pretrained], [row.variant.mean for row in pretrained]
    )
    for row in rows:
        arm = tree.arm(runs[row.variant.runs[0]].cell, root=root.run_id)
        arm.metrics(summary(row, findings), step=0)
        arm.finish("FINISHED")
    notes = _notes(findings, cells=len(cells), done=len(runs))
    provenance = _provenance(store.run(root.run_id), [store.run(run_id) for run_id in runs])
    report = Report(tree.name, rows, findings, hypothesis, notes, provenance)
    page = write_study(store.home / "reports" / tree.name, report)
    for path in sorted(page.parent.iterdir()):
        root.file(path, folder=_FOLDER)
    best = max(findings.variants, key=lambda one: one.mean)
    root.metrics({"score/best": best.mean, "cells/done": float(len(runs))}, step=0)
    return Concluded(findings, notes, page)


def _row(store: Store, variant: Variant, runs: Mapping[str, Task], finished: Mapping[str, str]) -> Row:
    mine = [runs[run_id] for run_id in variant.runs]
    cell = mine[0].cell
    trained = [finished[task.needs] for task in mine if task.needs]
    ends = [store.run(run_id) for run_id in (*trained, *variant.runs)]
    panels = [store.checkpoints(run_id) / "panel.png" for run_id in (*trained[:1], variant.runs[0])]
    columns = {
        "method": cell.pretrain.method if cell.pretrain else SCRATCH,
        "mask": cell.pretrain.mask if cell.pretrain else "–",
        "ratio": f"{cell.pretrain.ratio:g}" if cell.pretrain else "–",
    }
    return Row(
        variant=variant,
        columns=columns,
        costs=_costs(ends, cells=len(variant.runs)),
        card=_card(store, cell, trained[0]) if trained else {},
        panels=tuple(path.read_bytes() for path in panels if path.is_file()),
    )


def _costs(ends: Sequence[Run], *, cells: int) -> dict[str, float]:
    """Return what a cell costs, its pretraining with it, as if none were shared; memory is the highest."""
    keys = sorted({key for run in ends for key in run.data.metrics if key.startswith("cost/")})
    found = {}
    for key in keys:
        values = [run.data.metrics[key] for run in ends if key in run.data.metrics]
        found[key] = max(values) if "memory" in key else float(np.sum(values)) / cells
    return found


def _card(store: Store, cell: Cell, pretraining: str) -> dict[str, float]:
    """Measure the mask on the grid that the pretraining used."""
    if cell.pretrain is None:
        return {}
    used = yaml.safe_load(store.read_text(store.run(pretraining), "settings.yaml"))
    dims = int(used["dims"])
    grid = grid_of(as_size(used["size"], dims, what="size"), as_size(used["cell"], dims, what="cell"))
    mask = build_mask(cell.pretrain.mask, ratio=cell.pretrain.ratio, **cell.pretrain.mask_options)
    hidden = mask.sample(_CARD_DRAWS, grid, generator=torch_stream(0, "card"))
    measured = card(hidden, requested_ratio=cell.pretrain.ratio)
    return {
        "card/unevenness": unevenness(measured.density_variance, measured.realised_ratio),
        "card/distance_to_visible": measured.distance_to_visible,
        "card/realised_ratio": measured.realised_ratio,
    }


def _notes(findings: Findings, *, cells: int, done: int) -> tuple[str, ...]:
    notes = []
    if done < cells:
        notes.append(f"{cells - done} of {cells} cells are not finished; run the same command again")
    seeds = {one.seeds for one in findings.variants}
    if len(seeds) > 1:
        notes.append("the arms were run with different seeds")
    if all(len(found) == 1 for found in seeds):
        notes.append("one seed an arm: intervals and tests cover patients, not the chance of training")
    return tuple(notes)


def _provenance(root: Run, runs: Sequence[Run]) -> dict[str, str]:
    """Return what the numbers come from; a value is shown where it is the same in all cells."""
    keys = (
        "dataset",
        "dataset_hash",
        "task",
        "split_hash",
        "encoder",
        "dims",
        "size",
        "budget",
        "batch_size",
    )
    found = {"study's run": str(root.info.run_id)}
    for key in (*keys, "lr", "medmim_version"):
        values = sorted({run.data.tags.get(key, "") for run in runs})
        found[key] = values[0] if len(values) == 1 else f"{len(values)} different"
    return found
