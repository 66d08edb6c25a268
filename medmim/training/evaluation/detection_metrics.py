"""Detection metrics from true and detected boxes: AP, FROC and F1 at a threshold, with MONAI's matching.

A row is one image: `truth` contains [class, *xyzxyz], `found` contains [class, score, *xyzxyz]. A detected
box is a true positive if its IoU with a true box of its class, not matched by a box of higher score, is at
least 0.5 unless stated otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from monai.apps.detection.metrics.matching import matching_batch

from medmim.training.evaluation.classification_metrics import finite_mean
from medmim.training.evaluation.metric_intervals import Statistic, Weights

Row = Mapping[str, Any]

_OVERLAPS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # COCO's, not rounded


def box_tally(rows: Sequence[Row], names: Sequence[str], thresholds: Mapping[str, float]) -> Statistic:
    """Return a function that computes the metrics of `box_means` from the multiplicity of each patient.

    Args:
        rows: one row per image, with `subject`; patients are in sorted order.
        thresholds: score threshold of each class for F1.
    """
    place = {who: number for number, who in enumerate(sorted({row["subject"] for row in rows}))}
    patient = np.array([place[row["subject"]] for row in rows], dtype=int)
    means = _means_of(rows, names, thresholds)
    return lambda weights: means(weights[patient])


def _means_of(rows: Sequence[Row], names: Sequence[str], thresholds: Mapping[str, float]) -> Statistic:
    """Return a function that computes the metrics of `box_means` from the multiplicity of each row."""
    matched = {name: matches_at(rows, name, _OVERLAPS) for name in names}
    unnamed = [with_pooled_classes(row) for row in rows]
    [halves], [pointing] = matches_at(unnamed, ANY, [HALF]), matches_at(unnamed, ANY, [FROC_OVERLAP])

    def means(weight: Weights) -> dict[str, float]:
        precisions = {name: [average_precision(one, weight) for one in matched[name]] for name in names}
        found = _with_mean("ap50", {name: values[0] for name, values in precisions.items()})
        found |= _with_mean("ap50_95", {name: float(np.mean(values)) for name, values in precisions.items()})
        f1 = {name: f1_at(matched[name][0], thresholds.get(name, UNCHOSEN), weight) for name in names}
        found |= {**{f"f1_{name}": value for name, value in f1.items()}, "f1": finite_mean(f1.values())}
        found |= {"ap50_any": average_precision(halves, weight), "froc": froc(pointing, weight)}
        return {key: value for key, value in found.items() if math.isfinite(value)}

    return means


def _with_mean(key: str, each: Mapping[str, float]) -> dict[str, float]:
    by_class = {f"{key}_{name}": value for name, value in each.items()} if len(each) > 1 else {}
    return {key: finite_mean(each.values()), **by_class}


MOST = 100  # boxes of an image that are evaluated
HALF = 0.5
UNCHOSEN = 0.5  # score threshold where validation chose none
FROC_OVERLAP = 0.1  # FROC counts a box that points at a lesion as a detection
_RATES = (0.25, 0.5, 1, 2, 4, 8)  # false positives per image
_RECALLS = np.linspace(0, 1, 101)  # COCO's
ANY = "any"


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of the boxes of one class.

    Attributes:
        scores: scores of the detected boxes of all images.
        right: whether each is a true positive.
        image: row index of each.
        there: number of true boxes of each row.
    """

    scores: Float[np.ndarray, " found"]
    right: np.ndarray
    image: np.ndarray
    there: np.ndarray


def box_means(
    rows: Sequence[Row], names: Sequence[str], thresholds: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the metrics of `medmim finetune detect`; AP as in COCO's own code (pycocotools).

    Args:
        thresholds: score threshold of each class for F1, `UNCHOSEN` for missing classes; None: the best
            thresholds on these rows, for validation only.
    """
    if not rows:
        return {}
    known = best_thresholds(rows, names) if thresholds is None else thresholds
    return _means_of(rows, names, known)(np.ones(len(rows)))


def match(rows: Sequence[Row], name: str, *, overlap: float = HALF) -> Matches:
    """Match the detected boxes of one class with the true boxes."""
    [matches] = matches_at(rows, name, [overlap])
    return matches


def matches_at(rows: Sequence[Row], name: str, overlaps: Sequence[float]) -> list[Matches]:
    """Match at several IoU thresholds; detected boxes are sorted by descending score."""
    results = [image.get(0) for image in _matching(rows, [name], overlaps)]
    empty: np.ndarray = np.zeros(0)
    each = [empty if one is None else one["dtScores"] for one in results]
    scores = np.concatenate([empty, *each]).astype(np.float64)
    image = np.repeat(np.arange(len(rows)), [len(one) for one in each] or 0)
    there = np.array([0 if one is None else len(one["gtIgnore"]) for one in results], dtype=int)
    order = np.argsort(-scores, kind="mergesort")
    found = []
    for level in range(len(overlaps)):
        right = np.concatenate(
            [empty, *(empty if one is None else one["dtMatches"][level] for one in results)]
        )
        found.append(Matches(scores[order], right[order] > 0, image[order], there))
    return found


@dataclass(frozen=True, eq=False)
class _DetectionCurve:
    """Weighted numbers of boxes: right and wrong ones down to each score, true ones, and images."""

    scores: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    true: float
    images: float


def _curve(matches: Matches, weights: np.ndarray | None) -> _DetectionCurve:
    weight = np.ones(len(matches.there)) if weights is None else weights
    order = np.argsort(-matches.scores, kind="mergesort")
    each, right = weight[matches.image[order]], matches.right[order]
    true, images = float((matches.there * weight).sum()), float(weight.sum())
    return _DetectionCurve(
        matches.scores[order], np.cumsum(each * right), np.cumsum(each * ~right), true, images
    )


def average_precision(matches: Matches, weights: np.ndarray | None = None) -> float:
    """Return COCO's average precision (101 recall steps) of weighted rows; NaN without true boxes."""
    curve = _curve(matches, weights)
    if curve.true == 0:
        return math.nan
    precision = curve.right / np.maximum(curve.right + curve.wrong, np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(curve.right / curve.true, _RECALLS, side="left")
    return float(np.append(best, 0.0)[np.minimum(places, len(best))].mean())


def froc(matches: Matches, weights: np.ndarray | None = None) -> float:
    """Return the mean sensitivity at 1/4, 1/2, 1, 2, 4, 8 false positives; NaN without true boxes."""
    curve = _curve(matches, weights)
    if curve.true == 0:
        return math.nan
    scores, right, wrong = curve.scores, curve.right / curve.true, curve.wrong / curve.images
    ends = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores enter together
    return float(np.interp(_RATES, np.append(0.0, wrong[ends]), np.append(0.0, right[ends])).mean())


def best_thresholds(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """Return the score threshold with the best F1 for each class that has true boxes."""
    chosen = {}
    for name in names:
        matches = match(rows, name)
        if matches.there.sum() == 0 or len(matches.scores) == 0:
            continue
        order = np.argsort(-matches.scores, kind="mergesort")
        right = np.cumsum(matches.right[order])
        f1 = 2 * right / (np.arange(len(order)) + 1 + matches.there.sum())
        scores = matches.scores[order]
        f1[np.append(scores[1:] == scores[:-1], False)] = -1  # equal scores enter together
        chosen[name] = float(scores[int(f1.argmax())])
    return chosen


def f1_at(matches: Matches, threshold: float, weights: np.ndarray | None = None) -> float:
    """Return the F1 of boxes with at least this score; NaN without true and detected boxes."""
    weight = np.ones(len(matches.there)) if weights is None else weights
    each = weight[matches.image] * (matches.scores >= threshold)
    total = float(each.sum() + (matches.there * weight).sum())
    return float(2 * each[matches.right].sum() / total) if total else math.nan


def _matching(rows: Sequence[Row], names: Sequence[str], overlaps: Sequence[float]) -> list[dict[Any, Any]]:
    place = {name: number for number, name in enumerate(names)}
    truth = [[box for box in row["truth"] if box[0] in place] for row in rows]
    found = [[box for box in row["found"] if box[0] in place] for row in rows]
    results: list[dict[Any, Any]] = matching_batch(
        iou_fn=box_iou,
        iou_thresholds=overlaps,
        pred_boxes=[_array([box[2:] for box in image]) for image in found],
        pred_classes=[np.array([place[box[0]] for box in image], dtype=int) for image in found],
        pred_scores=[np.array([box[1] for box in image], dtype=float) for image in found],
        gt_boxes=[_array([box[1:] for box in image]) for image in truth],
        gt_classes=[np.array([place[box[0]] for box in image], dtype=int) for image in truth],
        max_detections=MOST,
    )
    return results


def _array(boxes: Sequence[Sequence[float | int]]) -> Float[np.ndarray, "boxes 6"]:
    return np.array(boxes, dtype=np.float64).reshape(-1, 6)


def box_iou(
    first: Float[np.ndarray, "first 6"], second: Float[np.ndarray, "second 6"]
) -> Float[np.ndarray, "first second"]:
    """Return the IoU of every pair in double precision, in which COCO's code compares it with thresholds."""
    low, high = np.maximum(first[:, None, :3], second[:, :3]), np.minimum(first[:, None, 3:], second[:, 3:])
    shared = (high - low).clip(min=0).prod(axis=-1)
    sizes = [(boxes[:, 3:] - boxes[:, :3]).prod(axis=1) for boxes in (first, second)]
    iou: np.ndarray = shared / np.maximum(sizes[0][:, None] + sizes[1] - shared, np.spacing(1))
    return iou


def with_pooled_classes(row: Row) -> Row:
    """Return a row with all classes pooled; of overlapping detections only the best one is kept."""
    found = sorted(row["found"], key=lambda box: -box[1])
    kept: list[Any] = []
    for box in found:
        if not kept or box_iou(_array([box[2:]]), _array([one[2:] for one in kept])).max() < HALF:
            kept.append(box)
    return {
        "truth": [[ANY, *box[1:]] for box in row["truth"]],
        "found": [[ANY, *box[1:]] for box in kept],
    }
