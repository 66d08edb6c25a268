"""The numbers of detection when patients count more than once: boxes are matched once, then only weighed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medmim.training.box_scores import (
    ANY,
    FROC_OVERLAP,
    HALF,
    UNCHOSEN,
    average_precision,
    f1_at,
    froc,
    matches_at,
    nameless,
)
from medmim.training.intervals import Tally, Weights

_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())


def box_tally(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], thresholds: Mapping[str, float]
) -> Tally:
    """Return the function from how often each patient counts, in sorted order, to what `box_means` returns.

    Args:
        rows: one an image, with `subject`.
        names: of the classes that the network knows.
        thresholds: for F1, of each class.
    """
    place = {who: number for number, who in enumerate(sorted({row["subject"] for row in rows}))}
    patient = np.array([place[row["subject"]] for row in rows], dtype=int)
    matched = {name: matches_at(rows, name, _OVERLAPS) for name in names}
    whatever = [nameless(row) for row in rows]
    [halves], [pointing] = matches_at(whatever, ANY, [HALF]), matches_at(whatever, ANY, [FROC_OVERLAP])

    def means(weights: Weights) -> dict[str, float]:
        weight = weights[patient]
        precisions = {name: [average_precision(one, weight) for one in matched[name]] for name in names}
        found = _of_all("ap50", {name: values[0] for name, values in precisions.items()})
        found |= _of_all("ap50_95", {name: float(np.mean(values)) for name, values in precisions.items()})
        f1 = {name: f1_at(matched[name][0], thresholds.get(name, UNCHOSEN), weight) for name in names}
        found |= {**{f"f1_{name}": value for name, value in f1.items()}, "f1": _known_mean(f1)}
        found |= {"ap50_any": average_precision(halves, weight), "froc": froc(pointing, weight)}
        return {key: value for key, value in found.items() if math.isfinite(value)}

    return means


def _of_all(key: str, each: Mapping[str, float]) -> dict[str, float]:
    of_classes = {f"{key}_{name}": value for name, value in each.items()} if len(each) > 1 else {}
    return {key: _known_mean(each), **of_classes}


def _known_mean(each: Mapping[str, float]) -> float:
    known = [value for value in each.values() if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
