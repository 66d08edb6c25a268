"""Descriptions of arms, read from the store: method and mask, costs, statistics of the mask, figures."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run

from medmim.config.own_code import refuse_foreign_code
from medmim.config.study import SCRATCH
from medmim.errors import RunError
from medmim.masks import build_mask
from medmim.masks.statistics import mask_statistics
from medmim.randomness import torch_stream
from medmim.shapes import as_size, grid_of
from medmim.tracking.comparison.arms import Arm
from medmim.tracking.comparison.runs import RunScores
from medmim.tracking.mlflow_store import Store
from medmim.tracking.statistics.evenness_hypothesis import unevenness

_LOG = logging.getLogger(__name__)
_SAMPLES = 64
_MAX_CELLS = 1 << 20
_LOGGED_FIGURE = re.compile(r"(?:reconstruction|test).step.\d+.timestamp.(\d+)")


def described(store: Store, arms: Sequence[Arm], runs: Sequence[RunScores]) -> tuple[Arm, ...]:
    """Return arms with their columns, costs, mask statistics and figures."""
    by_id = {run.run_id: run for run in runs}
    return tuple(_described(store, arm, [by_id[run_id] for run_id in arm.runs]) for arm in arms)


def _described(store: Store, arm: Arm, runs: Sequence[RunScores]) -> Arm:
    finetuned = [store.run(run.run_id) for run in runs]
    pretrained = [store.find_run(run.tags.get("pretraining_run", "")) for run in runs]
    known = [run for run in pretrained if run is not None]
    settings = runs[0].pretraining or {}
    panels = [_panel(store, run) for run in (*known[:1], finetuned[0])]
    return replace(
        arm,
        columns={
            "method": str(settings.get("method", SCRATCH if arm.is_control else arm.name)),
            "mask": str(settings.get("mask", "–")),
            "ratio": f"{settings['ratio']:g}" if "ratio" in settings else "–",
        },
        costs=_costs([*known, *finetuned], trials=len(runs)),
        mask_statistics=_mask_statistics(settings),
        panels=tuple(path.read_bytes() for path in panels if path),
    )


def _panel(store: Store, run: Run) -> Path | None:
    """Return a run's last figure; of an unpacked run, which has no folder of its own, from its artifacts."""
    kept = store.checkpoints(run.info.run_id) / "panel.png"
    if kept.is_file():
        return kept
    logged = [
        (int(found[1]), path)
        for path in store.artifact(run, "images").glob("*.png")
        if (found := _LOGGED_FIGURE.match(path.name))
    ]
    return max(logged)[1] if logged else None


def _costs(runs: Sequence[Run], *, trials: int) -> dict[str, float]:
    """Return what one trial costs with its pretraining, as if none were shared; memory is the highest."""
    found = {}
    for key in sorted({key for run in runs for key in run.data.metrics if key.startswith("cost/")}):
        values = [run.data.metrics[key] for run in runs if key in run.data.metrics]
        found[key] = max(values) if "memory" in key else float(np.sum(values)) / trials
    return found


def _mask_statistics(settings: Mapping[str, Any]) -> dict[str, float]:
    """Measure the mask on the grid that the pretraining used; nothing where its sizes are not recorded."""
    if not settings.get("size") or not settings.get("cell"):
        return {}
    try:
        refuse_foreign_code(settings, source="statistics of a mask")
    except RunError as error:
        _LOG.warning("left out: %s", error)
        return {}
    dims = int(settings["dims"])
    size, cell = (as_size(settings[key], dims, what=key) for key in ("size", "cell"))
    grid = grid_of(size, cell)
    if math.prod(grid) > _MAX_CELLS:  # settings of an unpacked run may be anything
        return {}
    mask = build_mask(settings["mask"], ratio=settings["ratio"], **settings["mask_options"])
    hidden = mask.sample(_SAMPLES, grid, generator=torch_stream(0, "card"))
    measured = mask_statistics(hidden, requested_ratio=settings["ratio"])
    return {
        "card/unevenness": unevenness(measured.density_variance, measured.realised_ratio),
        "card/distance_to_visible": measured.distance_to_visible,
        "card/realised_ratio": measured.realised_ratio,
    }
