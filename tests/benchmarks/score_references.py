"""Compare metrics of classes, grades, numbers and boxes with their references on 200 random cases each.

Degenerate cases are among them: one class or one number only, ties, constant predictions, no box. Prints the
largest difference of each metric and writes it as JSON; needs pycocotools (a dev dependency):

    python -m tests.benchmarks.score_references --out docs/results/score_references.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import stats
from sklearn import metrics

from medmim.training.evaluation.classification_metrics import class_means, grades_of, ordinal_means
from medmim.training.evaluation.detection_metrics import box_means
from medmim.training.evaluation.multilabel_metrics import columns_of, label_means
from medmim.training.evaluation.regression_metrics import regression_means

CASES = 200
Scores = Mapping[str, float]
Rows = list[dict[str, Any]]


def class_rows(rng: np.random.Generator, number: int) -> Rows:
    """Return rows of classification: probabilities with ties; every fifth case has one true class."""
    names, images = [str(one) for one in range(rng.integers(2, 6))], int(rng.integers(1, 40))
    shares = rng.dirichlet(np.ones(len(names)), images)
    shares = shares if number % 3 else np.eye(len(names))[rng.integers(len(names), size=images)]
    truth = rng.integers(1 if number % 5 == 0 else len(names), size=images)
    return [
        {
            "subject": str(place),
            "class": names[one],
            "probabilities": dict(zip(names, own, strict=True)),
        }
        for place, (one, own) in enumerate(zip(truth, shares.tolist(), strict=True))
    ]


def class_reference(rows: Rows) -> dict[str, float]:
    """Scikit-learn's, and the definition of the calibration error."""
    names = list(rows[0]["probabilities"])
    shares = np.array([list(row["probabilities"].values()) for row in rows])
    truth, guess = np.array([names.index(row["class"]) for row in rows]), shares.argmax(axis=1)
    known = [n for n in range(len(names)) if 0 < (truth == n).sum() < len(rows)]
    bins = np.minimum((shares.max(axis=1) * 15).astype(int), 14)
    gaps = [
        abs(shares.max(axis=1)[bins == one].mean() - (truth == guess)[bins == one].mean())
        * (bins == one).mean()
        for one in set(bins.tolist())
    ]
    return {
        "macro_f1": metrics.f1_score(truth, guess, average="macro"),
        "accuracy": metrics.accuracy_score(truth, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
        "auroc": _mean([metrics.roc_auc_score(truth == n, shares[:, n]) for n in known]),
        "ece": math.fsum(gaps),
    }


def class_scores(rows: Rows) -> Scores:
    """Ours."""
    return class_means(rows, list(rows[0]["probabilities"]))


def grade_reference(rows: Rows) -> dict[str, float]:
    """Scikit-learn's."""
    names = list(rows[0]["probabilities"])
    truth = [names.index(row["class"]) for row in rows]
    guess = [int(np.argmax(list(row["probabilities"].values()))) for row in rows]
    one = len({*truth, *guess}) == 1
    kappa = (
        math.nan
        if one
        else metrics.cohen_kappa_score(truth, guess, labels=range(len(names)), weights="quadratic")
    )
    return {"quadratic_kappa": kappa, "mean_grade_error": metrics.mean_absolute_error(truth, guess)}


def grade_scores(rows: Rows) -> Scores:
    """Ours."""
    names = list(rows[0]["probabilities"])
    return ordinal_means([grades_of(row["probabilities"], row["class"], names) for row in rows])


def label_rows(rng: np.random.Generator, number: int) -> Rows:
    """Return rows of several classes with unknown values and ties; every fifth case has no positive one."""
    names, images = ["a", "b", "c"], int(rng.integers(1, 40))
    shares = rng.random((images, 3)).round(1 if number % 2 else 6)
    truth = rng.integers(1 if number % 5 == 0 else 2, size=(images, 3))
    known = rng.random((images, 3)) < 0.8
    return [
        {
            "labels": {name: int(one[n]) for n, name in enumerate(names) if there[n]},
            "found": [name for n, name in enumerate(names) if own[n] >= 0.5],
            "probabilities": dict(zip(names, own.tolist(), strict=True)),
        }
        for one, own, there in zip(truth, shares, known, strict=True)
    ]


def label_reference(rows: Rows) -> dict[str, float]:
    """Scikit-learn's over the known cases of each class."""
    auroc, f1 = [], []
    for name in rows[0]["probabilities"]:
        own = [row for row in rows if name in row["labels"]]
        truth = [row["labels"][name] for row in own]
        if any(truth):
            f1.append(metrics.f1_score(truth, [name in row["found"] for row in own]))
        if len(set(truth)) == 2:
            auroc.append(metrics.roc_auc_score(truth, [row["probabilities"][name] for row in own]))
    return {"macro_auroc": _mean(auroc), "macro_f1": _mean(f1)}


def label_scores(rows: Rows) -> Scores:
    """Ours."""
    return label_means(columns_of(rows, list(rows[0]["probabilities"])), np.ones(len(rows)))


def number_rows(rng: np.random.Generator, number: int) -> Rows:
    """Return rows of regression; every fifth case has one true number, every seventh one prediction."""
    patients = int(rng.integers(1, 30))
    truth = np.full(patients, 3.0) if number % 5 == 0 else rng.normal(50, 10, patients).round(1)
    guess = np.full(patients, 4.0) if number % 7 == 0 else truth + rng.normal(0, 5, patients).round()
    return [
        {"subject": str(n), "value": a, "predicted": b}
        for n, (a, b) in enumerate(zip(truth.tolist(), guess.tolist(), strict=True))
    ]


def number_reference(rows: Rows) -> dict[str, float]:
    """Scikit-learn's and SciPy's; limits of agreement by the formula of Bland and Altman."""
    truth, guess = (np.array([row[key] for row in rows]) for key in ("value", "predicted"))
    errors = guess - truth
    varies = len(set(truth.tolist())) > 1
    sd = stats.tstd(errors) if len(rows) > 1 else math.nan
    return {
        "mae": metrics.mean_absolute_error(truth, guess),
        "rmse": metrics.root_mean_squared_error(truth, guess),
        "r2": metrics.r2_score(truth, guess) if varies else math.nan,
        "spearman": stats.spearmanr(truth, guess).statistic
        if varies and len(set(guess.tolist())) > 1
        else math.nan,
        "bias": errors.mean(),
        "bias_lower_limit": errors.mean() - 1.96 * sd,
        "bias_upper_limit": errors.mean() + 1.96 * sd,
    }


def box_rows(rng: np.random.Generator, number: int) -> Rows:
    """Return rows of detection in pictures; every fifth case has no true box, every seventh no detection."""
    rows = []
    for _ in range(int(rng.integers(1, 8))):
        truth = [] if number % 5 == 0 else [_box(rng) for _ in range(rng.integers(0, 4))]
        moved = [(name, *np.add(box, rng.integers(-4, 5, 4)).tolist()) for name, *box in truth]
        found = [] if number % 7 == 0 else [*moved, *(_box(rng) for _ in range(rng.integers(0, 3)))]
        rows.append(
            {
                "truth": [[name, x, y, 0, x + 20 + w, y + 20 + h, 1] for name, x, y, w, h in truth],
                "found": [
                    [name, float(rng.random().__round__(2)), x, y, 0, x + 20 + w, y + 20 + h, 1]
                    for name, x, y, w, h in found
                ],
            }
        )
    return rows


def _box(rng: np.random.Generator) -> tuple[Any, ...]:
    return ("ab"[rng.integers(2)], *rng.integers(0, 12, 4).tolist())


def box_reference(rows: Rows) -> dict[str, float]:
    """COCO's own code."""
    place, truth, found = {"a": 1, "b": 2}, [], []
    for image, row in enumerate(rows, start=1):
        for name, x, y, _, right, low, _ in row["truth"]:
            size = {"bbox": [x, y, right - x, low - y], "area": (right - x) * (low - y), "iscrowd": 0}
            truth.append({"id": len(truth) + 1, "image_id": image, "category_id": place[name], **size})
        for name, score, x, y, _, right, low, _ in row["found"]:
            box = {"bbox": [x, y, right - x, low - y], "score": score}
            found.append({"image_id": image, "category_id": place[name], **box})
    if not truth or not found:
        return {"ap50": 0.0 if truth else math.nan, "ap50_95": 0.0 if truth else math.nan}
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO()
        labels.dataset = {
            "images": [{"id": image} for image in range(1, len(rows) + 1)],
            "annotations": truth,
            "categories": [{"id": number, "name": name} for name, number in place.items()],
            "info": {},
        }
        labels.createIndex()
        evaluation = COCOeval(labels, labels.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class
    known = precision[:, :, (precision > -1).any(axis=(0, 1))]
    return {"ap50": float(known[0].mean()), "ap50_95": float(known.mean())}


def box_scores(rows: Rows) -> Scores:
    """Ours."""
    return box_means(rows, ["a", "b"], {})


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


Kind = tuple[
    Callable[[np.random.Generator, int], Rows], Callable[[Rows], Scores], Callable[[Rows], Scores], str
]
KINDS: dict[str, Kind] = {
    "classify": (class_rows, class_scores, class_reference, "scikit-learn; ece: definition"),
    "ordinal": (class_rows, grade_scores, grade_reference, "scikit-learn"),
    "multilabel": (label_rows, label_scores, label_reference, "scikit-learn"),
    "regress": (number_rows, regression_means, number_reference, "scikit-learn, SciPy"),
    "detect": (box_rows, box_scores, box_reference, "pycocotools"),
}


def compared(count: int = CASES) -> list[dict[str, Any]]:
    """Return a row for each metric: cases, how many are undefined, and the largest difference."""
    table = []
    for task, (make, ours_of, reference_of, source) in KINDS.items():
        rng = np.random.default_rng(0)
        ours, expected = [], []
        for number in range(count):
            rows = make(rng, number)
            ours.append(ours_of(rows))
            with warnings.catch_warnings():  # scikit-learn warns about absent classes
                warnings.simplefilter("ignore")
                expected.append(reference_of(rows))
        for name in expected[0]:
            pairs = [(a.get(name, math.nan), float(b[name])) for a, b in zip(ours, expected, strict=True)]
            finite = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
            table.append(
                {
                    "task": task,
                    "metric": name,
                    "reference": source,
                    "cases": count,
                    "both undefined": sum(not math.isfinite(a) and not math.isfinite(b) for a, b in pairs),
                    "one of both undefined": sum(math.isfinite(a) != math.isfinite(b) for a, b in pairs),
                    "largest difference": max(abs(a - b) for a, b in finite),
                }
            )
    return table


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text = "[\n" + ",\n".join(json.dumps(row) for row in compared()) + "\n]\n"
    sys.stdout.write(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
