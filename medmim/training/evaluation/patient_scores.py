"""What is compared between runs: a number of the test patients, whichever of them a bootstrap draws.

Rows of `cases.jsonl` name their metric: `dice` is a mean over patients, `macro_f1` and `ap50` are of all
cases together. In each of them a patient is drawn with everything that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from medmim.training.evaluation.classification_metrics import UNSEEN, arrays, confusion, f1_of
from medmim.training.evaluation.detection_metrics import average_precision, match


def pseudo_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return one number a patient; their mean is the run's score.

    For Dice, a mean over patients, it is the patient's own. F1 and AP50 are of all patients together: the
    number is then the score plus how far it falls without the patient, times the other patients (the
    jackknife's pseudo-values of Tukey, centred on the score), so that means, intervals and tests over
    patients hold for them as well.
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
    """Return the score of each patient alone, for pictures; those that have none are left out."""
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
    """A metric of one run's rows.

    Attributes:
        patients: in the order of weights.
        by_class: from how often each patient was drawn to the value of each class; NaN where there is none.
        each: the value of each patient alone; NaN where it has none.
        is_mean: the whole is the mean of `each`; otherwise the mean of `by_class`.
    """

    patients: tuple[str, ...]
    by_class: Callable[[Weights], dict[str, float]]
    each: Weights
    is_mean: bool = False

    def value(self, weights: Weights) -> float:
        """Return the metric of patients that were drawn so often; NaN where it has no value."""
        if self.is_mean:
            return _mean(self.each, weights)
        return _known_mean(list(self.by_class(weights).values()))


def measure_of(rows: Sequence[Row]) -> Measure:
    """Return the measure that the rows name."""
    return MEASURES[metric_of(rows)](rows)


def metric_of(rows: Sequence[Row]) -> str:
    """Return the metric that the rows name."""
    return str(rows[0].get("metric", DEFAULT))


def average(measures: Sequence[Measure]) -> Measure:
    """Return the mean of several runs' measures, such as those of other seeds, over the patients of any."""
    patients = tuple(sorted({who for one in measures for who in one.patients}))
    places = [np.array([patients.index(who) for who in one.patients]) for one in measures]

    def by_class(weights: Weights) -> dict[str, float]:
        found = [one.by_class(weights[place]) for one, place in zip(measures, places, strict=True)]
        names = sorted({name for values in found for name in values})
        return {name: _known_mean([values[name] for values in found if name in values]) for name in names}

    each = np.full((len(measures), len(patients)), np.nan)
    for row, one, place in zip(each, measures, places, strict=True):
        row[place] = one.each
    own_scores = np.array([_known_mean(column.tolist()) for column in each.T], dtype=np.float64)
    return Measure(patients, by_class, own_scores, is_mean=measures[0].is_mean)


def _known_mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values; NaN without any."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _dice(rows: Sequence[Row]) -> Measure:
    """Mean over patients, each the mean over its cases and classes."""
    patients = _patients(rows)
    labels = sorted({str(row["label"]) for row in rows})
    of_label = {label: _each([row for row in rows if row["label"] == label], patients) for label in labels}

    def by_class(weights: Weights) -> dict[str, float]:
        return {label: _mean(values, weights) for label, values in of_label.items()}

    return Measure(patients, by_class, _each(rows, patients), is_mean=True)


def _macro_f1(rows: Sequence[Row]) -> Measure:
    """F1 of each class over all cases; of a patient alone the share of cases that are right."""
    patients, names = _patients(rows), sorted(rows[0]["probabilities"])
    truth, shares = arrays(rows, names)
    guess, who = shares.argmax(axis=1), np.array([row["patient"] for row in rows])
    tables = np.stack([confusion(truth[who == one], guess[who == one], len(names)) for one in patients])

    def by_class(weights: Weights) -> dict[str, float]:
        counts = np.tensordot(weights, tables, axes=1)
        unseen = {UNSEEN: 0.0} if counts[-1].any() else {}
        return {name: float(value) for name, value in zip(names, f1_of(counts), strict=True)} | unseen

    right = np.array([(truth == guess)[who == one].mean() for one in patients])
    return Measure(patients, by_class, right)


def _ap50(rows: Sequence[Row]) -> Measure:
    """Average precision of each class over all images, and of each patient's images alone."""
    patients = _patients(rows)
    names = sorted({str(box[0]) for row in rows for box in row["truth"]})
    place = {who: number for number, who in enumerate(patients)}
    image = np.array([place[str(row["patient"])] for row in rows])
    matches = {name: match(rows, name) for name in names}

    def by_class(weights: Weights) -> dict[str, float]:
        return {name: average_precision(one, weights[image]) for name, one in matches.items()}

    own_scores = [list(by_class(row).values()) for row in np.eye(len(patients))]
    return Measure(patients, by_class, np.array([_known_mean(v) for v in own_scores], dtype=np.float64))


MEASURES: dict[str, Callable[[Sequence[Row]], Measure]] = {
    "ap50": _ap50,
    "dice": _dice,
    "macro_f1": _macro_f1,
}


def _patients(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(sorted({str(row["patient"]) for row in rows}))


def _each(rows: Sequence[Row], patients: Sequence[str]) -> Weights:
    """Return the mean Dice of each patient's rows; NaN for one that has none."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(str(row["patient"]), []).append(float(row["dice"]))
    return np.array([np.mean(found[who]) if who in found else np.nan for who in patients], dtype=np.float64)


def _mean(values: np.ndarray, weights: Weights) -> float:
    known = np.isfinite(values)
    total = weights[known].sum()
    return float((values[known] * weights[known]).sum() / total) if total else float("nan")
