"""Which runs a study consists of: what its plan says, wherever and under whatever name they were trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlflow.entities import Run

from medmim.config.study import DIGEST, StudyTrial
from medmim.tracking.comparison.runs import Finetuned, read_run
from medmim.tracking.mlflow_store import RunRecorder, Store

PLAN = "cells.json"  # artifact of a study's own run


@dataclass(frozen=True)
class PlannedTraining:
    """A training that a study asks for.

    Attributes:
        digest: of the work.
        arm, stratum: of the cell that it ends; empty for a pretraining.
    """

    digest: str
    arm: str = ""
    stratum: str = ""


def keep_plan(root: RunRecorder, plan: Sequence[PlannedTraining]) -> None:
    """Note with a study's own run what it asks for: the next start may ask for something else."""
    rows = [{"digest": one.digest, "arm": one.arm, "stratum": one.stratum} for one in plan]
    root.text(PLAN, json.dumps(rows, indent=1))


def runs_of_study(store: Store, study: str) -> list[Run]:
    """Return all runs of a study, newest first, those with it that another study had trained before."""
    own = store.runs(study=study)
    planned = _plan(store, own)
    ids = {run.info.run_id for run in own}
    there = {run.data.tags.get(DIGEST) for run in own if run.info.status == "FINISHED"}
    return [*own, *(run for run in _finished(store, planned, there).values() if run.info.run_id not in ids)]


def finished_cells(store: Store, study: str) -> tuple[list[Finetuned], int]:
    """Return the finished cells that a study asks for, and how many it has from an earlier plan."""
    own = store.runs(study=study)
    cells = [run for run in own if run.data.tags.get("role") == "cell" and run.info.status == "FINISHED"]
    planned = _plan(store, own)
    if not planned:
        return [read_run(store, run) for run in reversed(cells)], 0
    chosen = _finished(store, planned, frozenset())
    asked = {digest: run for digest, run in chosen.items() if planned[digest].arm}
    earlier = sum(run.data.tags.get(DIGEST) not in planned for run in cells)
    return [placed(read_run(store, run), planned[digest]) for digest, run in asked.items()], earlier


def placed(run: Finetuned, place: PlannedTraining | StudyTrial) -> Finetuned:
    """Return a run under the arm and stratum that a study now has for it."""
    return replace(run, arm=place.arm, tags={**run.tags, "arm": place.arm, "stratum": place.stratum})


def _plan(store: Store, runs: Sequence[Run]) -> dict[str, PlannedTraining]:
    """Return what is asked for by digest; a study that two sites ran has two plans, both count."""
    roots = [run for run in runs if run.data.tags.get("role") == "study"]
    rows = [row for root in reversed(roots) for row in json.loads(store.read_text(root, PLAN, default="[]"))]
    return {row["digest"]: PlannedTraining(**row) for row in rows}


def _finished(
    store: Store, planned: Mapping[str, PlannedTraining], left_out: frozenset[str] | set[str | None]
) -> dict[str, Run]:
    """Return the newest finished run of each planned training, in the order of the plan."""
    found: dict[str, Run] = {}
    for run in store.runs() if planned else ():
        digest = run.data.tags.get(DIGEST, "")
        if run.info.status == "FINISHED" and digest in planned and digest not in left_out:
            found.setdefault(digest, run)
    return {digest: found[digest] for digest in planned if digest in found}
