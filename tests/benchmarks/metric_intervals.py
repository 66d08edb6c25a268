"""Simulate test sets with a known truth: how often does the interval of one run's metric cover it?

Prints one table and writes it as JSON; half an hour on one core. The interval was chosen on other simulated
sets than these, and `CHECKS` were drawn once, after the choice:

    python -m tests.benchmarks.metric_intervals --out docs/results/metric_intervals.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from medmim.training.evaluation.classification_metrics import confusion, macro_f1
from medmim.training.evaluation.detection_metrics import Matches, average_precision
from medmim.training.evaluation.metric_intervals import Statistic, interval, unseen_failures

Draw = Callable[[np.random.Generator, int], Statistic]
PATIENTS = (10, 20, 50)
_LARGE = 100_000
_DRAWS = 200
_COMPARED = 400


def mean_of(draw: Callable[[np.random.Generator, int], np.ndarray], key: str = "dice") -> Draw:
    """Return the mean of one score for each patient, such as Dice."""

    def statistic(rng: np.random.Generator, patients: int) -> Statistic:
        scores = draw(rng, patients)
        return lambda weights: {key: float(weights @ scores / weights.sum())}

    return statistic


def f1(rng: np.random.Generator, patients: int) -> Statistic:
    """Return macro-F1 of three classes, a quarter of the cases wrong."""
    truth = rng.choice(3, p=[0.5, 0.3, 0.2], size=patients)
    guess = np.where(rng.random(patients) < 0.25, rng.integers(0, 3, patients), truth)
    tables = np.zeros((patients, 4, 3))
    tables[np.arange(patients), truth, guess] = 1
    assert confusion(truth, guess, 3).sum() == patients
    return lambda weights: {"macro_f1": macro_f1(np.tensordot(weights, tables, axes=1))}


def auroc(rng: np.random.Generator, patients: int, shift: float = 1.5) -> Statistic:
    """Return the AUROC of two classes of equal size, about 0.85 with the default `shift`."""
    truth = np.arange(patients) % 2 == 0
    score = rng.normal(0, 1, patients) + shift * truth

    def value(weights: np.ndarray) -> dict[str, float]:
        positive, negative = weights * truth, weights * ~truth
        order = np.argsort(score)
        below = np.cumsum(negative[order])
        return {"auroc": float((positive[order] * below).sum() / (positive.sum() * negative.sum()))}

    return value


def ap50(rng: np.random.Generator, patients: int) -> Statistic:
    """Return the average precision of one class, three lesions and about two false boxes a patient."""
    found = rng.binomial(3, 0.75, patients)
    wrong = rng.poisson(2, patients)
    image = np.concatenate([np.repeat(np.arange(patients), found), np.repeat(np.arange(patients), wrong)])
    right = np.arange(len(image)) < found.sum()
    scores = rng.normal(0, 1, len(image)) + 1.5 * right
    order = np.argsort(-scores, kind="mergesort")
    matches = Matches(scores[order], right[order], image[order], np.full(patients, 3))
    return lambda weights: {"ap50": average_precision(matches, weights)}


DESIGNS: dict[str, Draw] = {
    "Dice, large organ": mean_of(lambda rng, n: rng.beta(30, 1.5, n)),
    "Dice, tumour": mean_of(lambda rng, n: rng.beta(8, 2, n)),
    "Dice, 15 % of tumours missed": mean_of(
        lambda rng, n: np.where(rng.random(n) < 0.15, 0.0, rng.beta(10, 2, n))
    ),
    "Dice, near 0": mean_of(lambda rng, n: rng.beta(0.4, 6, n)),
    "accuracy 0.8": mean_of(lambda rng, n: (rng.random(n) < 0.8).astype(float), "accuracy"),
    "macro-F1": f1,
    "AUROC": auroc,
    "AP50": ap50,
}
CHECKS: dict[str, Draw] = {
    "Dice, two groups": mean_of(
        lambda rng, n: np.where(rng.random(n) < 0.3, rng.beta(4, 4, n), rng.beta(20, 3, n))
    ),
    "Dice, logit-normal": mean_of(lambda rng, n: 1 / (1 + np.exp(-rng.normal(1.5, 1, n)))),
    "HD95, log-normal": mean_of(lambda rng, n: rng.lognormal(1.5, 0.5, n), "hd95_mm"),
    "accuracy 0.7": mean_of(lambda rng, n: (rng.random(n) < 0.7).astype(float), "accuracy"),
    "AUROC 0.8": lambda rng, n: auroc(rng, n, shift=1.19),
}


def coverage(name: str, patients: int, count: int) -> dict[str, Any]:
    """Return the share of simulated test sets whose interval covers the truth, and that of percentiles."""
    draw = (DESIGNS | CHECKS)[name]
    rng, covered, by_percentiles, inside, stated = np.random.default_rng(patients), 0, 0, True, 0
    [(key, truth)] = draw(np.random.default_rng(0), _LARGE)(np.ones(_LARGE)).items()
    for number in range(count):
        statistic = draw(rng, patients)
        value = statistic(np.ones(patients))[key]
        without = [statistic(1.0 - row)[key] for row in np.eye(patients)]
        low, high = interval(key, value, without) or (math.nan, math.nan)
        covered += low <= truth <= high
        inside &= low >= 0 and (high <= 1 or key == "hd95_mm")
        stated += unseen_failures(key, value, without) is not None
        if patients == PATIENTS[0] and number < _COMPARED:  # these take most of the time
            ends = _percentiles(statistic, key, np.random.default_rng(number), patients)
            by_percentiles += ends[0] <= truth <= ends[1]
    share = covered / count
    return {
        "metric": name,
        "patients": patients,
        "simulations": count,
        "truth": truth,
        "coverage": share,
        **(
            {"coverage of percentiles": by_percentiles / min(count, _COMPARED)}
            if patients == PATIENTS[0]
            else {}
        ),
        "share with the caveat": stated / count,
        "inside the range": bool(inside),
        "within 0.93 to 0.97": bool(0.93 <= share <= 0.97),
    }


def _percentiles(statistic: Statistic, key: str, rng: np.random.Generator, patients: int) -> Sequence[float]:
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=_DRAWS).astype(float)
    values = np.array([statistic(weights)[key] for weights in drawn])
    ends: list[float] = np.nanquantile(values, [0.025, 0.975]).tolist()
    return ends


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--simulations", type=int, default=4000)
    asked = parser.parse_args()
    np.seterr(invalid="ignore", divide="ignore")
    lines = []
    for name, patients in product(DESIGNS | CHECKS, PATIENTS):
        row = coverage(name, patients, asked.simulations)
        lines.append(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}))
        sys.stdout.write(f"{lines[-1]}\n")
        sys.stdout.flush()
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
