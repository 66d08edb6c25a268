"""Postprocessing of segmentations by connected components, chosen on validation cases only.

For each class, either only the largest component is kept, or components below a minimal volume are removed.
A rule is chosen if it raises the mean Dice of the validation patients without lowering it where the class is
present: a case without the class scores 1 as soon as nothing is predicted, so the mean of all cases alone
would favour rules that remove small true lesions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

from medmim.data.loading.preprocessing_plan import Regions
from medmim.training.evaluation.inference import class_groups, class_outside

Mask = Bool[np.ndarray, "x y z"]
Labels = Integer[np.ndarray, "x y z"]
Rules = Mapping[str, Mapping[str, float]]  # class name → `largest_component` or `min_ml`
Row = Mapping[str, Any]

_MIN_GAIN = 0.002  # of the mean Dice; smaller gains are noise
_MIN_PATIENTS = 5
_THRESHOLDS = 12  # minimal volumes that are tried
_CONNECTED = np.ones((3, 3, 3))


def components_of(prediction: Mask, truth: Mask, voxel_ml: float) -> list[list[float]]:
    """Return volume and overlap with the truth of each predicted component, in ml, the largest first."""
    numbered, count = ndimage.label(prediction, structure=_CONNECTED)
    sizes = np.bincount(numbered[prediction], minlength=count + 1)[1:]
    overlaps = np.bincount(numbered[prediction & truth], minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    return [[float(sizes[one] * voxel_ml), float(overlaps[one] * voxel_ml)] for one in order]


def choose_postprocessing(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the best rule of each class for which one raises the mean Dice of the patients.

    A class that fewer than five patients have gets no rule. Validation rows have `label`, `subject`,
    `volume_ml` and the `components` of `components_of`.
    """
    chosen: dict[str, dict[str, float]] = {}
    for name in sorted({row["label"] for row in rows}):
        own = [row for row in rows if row["label"] == name and "components" in row]
        present = [row for row in own if row["volume_ml"]]
        if len({row["subject"] for row in present}) < _MIN_PATIENTS:
            continue
        volumes = sorted({one[0] for row in own for one in row["components"]})
        tried = [{"largest_component": 1.0}]
        tried += [
            {"min_ml": float(ml)}
            for ml in np.quantile(volumes or [0.0], np.linspace(0, 1, _THRESHOLDS)[1:-1])
        ]
        harmless = [rule for rule in tried if _mean_dice(present, rule) >= _mean_dice(present, {})]
        best = max(harmless, key=lambda rule: _mean_dice(own, rule), default={})
        if _mean_dice(own, best) > _mean_dice(own, {}) + _MIN_GAIN:
            chosen[name] = best
    return chosen


def apply_postprocessing(
    labels: Labels,
    names: Mapping[int, str],
    rules: Rules,
    voxel_ml: float,
    regions: Regions | None = None,
) -> Labels:
    """Return labels without the components that the rules remove.

    They become background, or the class of the regions that still contain them.
    """
    cleaned = labels.copy()
    for name, group in class_groups(names, regions).items():
        mask = np.isin(cleaned, group)
        if name not in rules or not mask.any():
            continue
        numbered, count = ndimage.label(mask, structure=_CONNECTED)
        sizes = np.bincount(numbered[mask], minlength=count + 1)[1:] * voxel_ml
        removed = [0, *(np.flatnonzero(~_kept(sizes, rules[name])) + 1)]
        gone = mask & np.isin(numbered, removed)
        for number in group:  # `class_outside` is never in `group`
            cleaned[gone & (cleaned == number)] = class_outside(number, group, regions)
    return cleaned


def _kept(volumes: np.ndarray, rule: Mapping[str, float]) -> np.ndarray:
    """Return which components a rule keeps, given their volumes."""
    if "largest_component" in rule:
        return np.asarray(np.arange(len(volumes)) == (np.argmax(volumes) if len(volumes) else -1))
    return np.asarray(volumes >= rule.get("min_ml", 0.0))


def _mean_dice(rows: Sequence[Row], rule: Mapping[str, float]) -> float:
    """Return the mean over patients of the Dice after a rule."""
    of_patient: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        parts = np.array(row["components"], dtype=np.float64).reshape(-1, 2)
        parts = parts[_kept(parts[:, 0], rule)]
        total = parts[:, 0].sum() + row["volume_ml"]
        of_patient[row["subject"]].append(float(2 * parts[:, 1].sum() / total) if total else 1.0)
    return float(np.mean([np.mean(values) for values in of_patient.values()]))
