"""Metrics for comparisons between runs, as functions of the multiplicity of each test patient.

Rows of `cases.jsonl` name their metric: `dice` is a mean over patients, `macro_f1`, `macro_auroc`, `ap50`,
`quadratic_kappa` and `r2` are computed over all cases. Patients are resampled with all of their cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from medmim.training.evaluation.classification_metrics import (
    UNSEEN,
    arrays,
    confusion,
    f1_of,
    finite_mean,
    grade_arrays,
    grade_table,
    quadratic_kappa,
)
from medmim.training.evaluation.detection_metrics import average_precision, match
from medmim.training.evaluation.multilabel_metrics import columns_of
from medmim.training.evaluation.regression_metrics import patient_values, r2_of
from medmim.training.evaluation.segmentation_metrics import SEGMENTATION_METRICS


def pseudo_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return one value for each patient whose mean is the score of the run.

    For Dice, a mean over patients, it is the score of the patient. For F1, AUROC, AP50, κ and R², computed
    over all patients, the values are Tukey's jackknife pseudo-values, centred on the score, so that means,
    intervals and tests over patients apply to them as well.
    """
    measure = measure_of(rows)
    if measure.is_mean:
        return _known(measure, measure.each)
    count = len(measure.patients)
    whole = measure.value(np.ones(count))
    without = np.array([measure.value(1.0 - row) for row in np.eye(count)], dtype=np.float64)
    falls = (count - 1) * (whole - without)
    known = np.isfinite(falls)
    return _known(measure, whole + falls - falls[known].mean()) if known.any() else {}


def own_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the score of each patient alone, for figures; patients with an undefined score are omitted."""
    measure = measure_of(rows)
    return _known(measure, measure.each)


def _known(measure: Measure, values: np.ndarray) -> dict[str, float]:
    return {
        who: float(value) for who, value in zip(measure.patients, values, strict=True) if np.isfinite(value)
    }


Row = Mapping[str, Any]
Weights = Float[np.ndarray, " patients"]

DEFAULT = "dice"


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric of the rows of one run.

    Attributes:
        patients: patients in the order of weights.
        by_class: computes the value of each class from the multiplicity of each patient; NaN if undefined.
        each: the value of each patient alone; NaN if undefined.
        is_mean: whether the metric is the mean of `each`; otherwise it is the mean of `by_class`.
    """

    patients: tuple[str, ...]
    by_class: Callable[[Weights], dict[str, float]]
    each: Weights
    is_mean: bool = False

    def value(self, weights: Weights) -> float:
        """Return the metric for the multiplicity of each patient; NaN if undefined."""
        if self.is_mean:
            return _mean(self.each, weights)
        return finite_mean(self.by_class(weights).values())


def measure_of(rows: Sequence[Row]) -> Measure:
    """Return the measure for the metric of these rows."""
    return MEASURES[metric_of(rows)](rows)


def metric_of(rows: Sequence[Row]) -> str:
    """Return the name of the metric of these rows."""
    return str(rows[0].get("metric", DEFAULT))


def average(measures: Sequence[Measure]) -> Measure:
    """Return the mean of the measures of several runs, such as seeds, over the union of their patients."""
    patients = tuple(sorted({who for one in measures for who in one.patients}))
    places = [np.array([patients.index(who) for who in one.patients]) for one in measures]

    def by_class(weights: Weights) -> dict[str, float]:
        found = [one.by_class(weights[place]) for one, place in zip(measures, places, strict=True)]
        names = sorted({name for values in found for name in values})
        return {name: finite_mean([values[name] for values in found if name in values]) for name in names}

    each = np.full((len(measures), len(patients)), np.nan)
    for row, one, place in zip(each, measures, places, strict=True):
        row[place] = one.each
    own_scores = np.array([finite_mean(column.tolist()) for column in each.T], dtype=np.float64)
    return Measure(patients, by_class, own_scores, is_mean=measures[0].is_mean)


def _mean_over_patients(rows: Sequence[Row]) -> Measure:
    """Mean over patients of the mean over cases and classes, of Dice and other metrics of masks."""
    metric = metric_of(rows)
    patients = _patients(rows)
    labels = sorted({str(row["label"]) for row in rows})
    of_label = {
        label: _each([row for row in rows if row["label"] == label], patients, metric) for label in labels
    }

    def by_class(weights: Weights) -> dict[str, float]:
        return {label: _mean(values, weights) for label, values in of_label.items()}

    return Measure(patients, by_class, _each(rows, patients, metric), is_mean=True)


def _macro_f1(rows: Sequence[Row]) -> Measure:
    """F1 of each class over all cases; for a single patient the accuracy."""
    patients, names = _patients(rows), sorted(rows[0]["probabilities"])
    truth, shares = arrays(rows, names)
    predicted, who = shares.argmax(axis=1), np.array([row["patient"] for row in rows])
    tables = np.stack([confusion(truth[who == one], predicted[who == one], len(names)) for one in patients])

    def by_class(weights: Weights) -> dict[str, float]:
        counts = np.tensordot(weights, tables, axes=1)
        unseen = {UNSEEN: 0.0} if counts[-1].any() else {}
        return {name: float(value) for name, value in zip(names, f1_of(counts), strict=True)} | unseen

    right = np.array([(truth == predicted)[who == one].mean() for one in patients])
    return Measure(patients, by_class, right)


def _macro_auroc(rows: Sequence[Row]) -> Measure:
    """AUROC of each class over all cases; for a single patient the accuracy over its known classes."""
    patients, names = _patients(rows), sorted(rows[0]["probabilities"])
    columns = columns_of(rows, names)
    who = np.array([patients.index(str(row["patient"])) for row in rows])

    def by_class(weights: Weights) -> dict[str, float]:
        return {name: one.auroc(weights[who]) for name, one in columns.items()}

    right = np.array(
        [
            finite_mean([float((name in row["found"]) == value) for name, value in row["labels"].items()])
            for row in rows
        ]
    )
    own = np.array([finite_mean(right[who == number].tolist()) for number in range(len(patients))])
    return Measure(patients, by_class, own)


def _ap50(rows: Sequence[Row]) -> Measure:
    """Average precision of each class over all images and over the images of each patient."""
    patients = _patients(rows)
    names = sorted({str(box[0]) for row in rows for box in row["truth"]})
    place = {who: number for number, who in enumerate(patients)}
    image = np.array([place[str(row["patient"])] for row in rows])
    matches = {name: match(rows, name) for name in names}

    def by_class(weights: Weights) -> dict[str, float]:
        return {name: average_precision(one, weights[image]) for name, one in matches.items()}

    own_scores = [list(by_class(row).values()) for row in np.eye(len(patients))]
    return Measure(patients, by_class, np.array([finite_mean(v) for v in own_scores], dtype=np.float64))


def _quadratic_kappa(rows: Sequence[Row]) -> Measure:
    """Kappa over all cases; for a single patient, 1 minus its mean squared relative distance."""
    patients, grades = _patients(rows), int(rows[0]["grades"])
    truth, predicted = grade_arrays(rows)
    who = np.array([row["patient"] for row in rows])
    tables = np.stack([grade_table(truth[who == one], predicted[who == one], grades) for one in patients])

    def by_class(weights: Weights) -> dict[str, float]:
        return {"grades": quadratic_kappa(np.tensordot(weights, tables, axes=1))}

    far = ((truth - predicted) / max(grades - 1, 1)) ** 2
    return Measure(patients, by_class, np.array([1 - far[who == one].mean() for one in patients]))


def _r2(rows: Sequence[Row]) -> Measure:
    """R² over patients; for a single patient, 1 minus its squared error relative to the variance of all."""
    patients, truth, predicted = patient_values(rows, key="patient")
    variance = float(truth.var()) or math.nan

    def by_class(weights: Weights) -> dict[str, float]:
        return {"value": r2_of(truth, predicted, weights)}

    # of two patients, none can be left out
    return Measure(
        tuple(patients), by_class, 1 - (truth - predicted) ** 2 / variance, is_mean=len(patients) < 3
    )


MEASURES: dict[str, Callable[[Sequence[Row]], Measure]] = {
    "ap50": _ap50,
    "macro_auroc": _macro_auroc,
    "macro_f1": _macro_f1,
    "quadratic_kappa": _quadratic_kappa,
    "r2": _r2,
    **dict.fromkeys(
        (name for name, one in SEGMENTATION_METRICS.items() if one.is_tested), _mean_over_patients
    ),
}


def _patients(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(sorted({str(row["patient"]) for row in rows}))


def _each(rows: Sequence[Row], patients: Sequence[str], metric: str) -> Weights:
    """Return the mean score of each patient; NaN for patients without rows."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(str(row["patient"]), []).append(float(row[metric]))
    return np.array([np.mean(found[who]) if who in found else np.nan for who in patients], dtype=np.float64)


def _mean(values: np.ndarray, weights: Weights) -> float:
    known = np.isfinite(values)
    total = weights[known].sum()
    return float((values[known] * weights[known]).sum() / total) if total else float("nan")


def never_predicted(rows: Sequence[Row]) -> list[str]:
    """Return the classes that some case has and that were not predicted in any, from rows of cases."""
    present: dict[str, None] = {}
    predicted: set[str] = set()
    for row in rows:
        if "predicted_ml" in row:
            truth = [row["label"]] if row["volume_ml"] > 0 else []
            found = [row["label"]] if row["predicted_ml"] > 0 else []
        elif "truth" in row:  # boxes
            truth, found = ([str(box[0]) for box in row[key]] for key in ("truth", "found"))
        elif "labels" in row:
            truth, found = [name for name, value in row["labels"].items() if value], row["found"]
        elif "probabilities" in row:
            shares = row["probabilities"]
            truth, found = [row["class"]], [max(shares, key=lambda name: shares[name])]
        else:
            continue
        present |= dict.fromkeys(truth)
        predicted |= set(found)
    return [name for name in present if name not in predicted]
