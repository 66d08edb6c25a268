"""Simulate test sets with a known truth: how often does the interval of one run's metric cover it?

Prints one table and writes it as JSON; half an hour on one core. The interval was chosen on other simulated
sets than these. `CHECKS` were drawn once, after the choice, and `LATER_CHECKS` after that of Newcombe's
interval for AUROC and of the bound on unseen failures:

    python -m tests.benchmarks.metric_intervals --out docs/results/metric_intervals.json
    python -m tests.benchmarks.metric_intervals --only AUROC --out docs/results/metric_intervals.json
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
from scipy import stats

from medmim.training.evaluation.classification_metrics import confusion, macro_f1
from medmim.training.evaluation.detection_metrics import Matches, average_precision
from medmim.training.evaluation.metric_intervals import Sizes, Statistic, interval, unseen_failures
from medmim.training.evaluation.multilabel_metrics import LabelColumn

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


def rare_auroc(rng: np.random.Generator, patients: int) -> Statistic:
    """Return the AUROC of a class that a fifth of the patients have, with skewed scores (0.83)."""
    truth = np.arange(patients) % 5 == 0
    return _aurocs({"a": truth}, {"a": rng.gamma(np.where(truth, 3.0, 1.2))})


def macro_auroc(rng: np.random.Generator, patients: int) -> Statistic:
    """Return the mean AUROC of three classes that half, 30 % and 20 % of the patients have."""
    kind = np.searchsorted([5, 8], np.arange(patients) % 10, side="right")
    score = {str(one): rng.normal(1.3 * (kind == one)) for one in range(3)}
    total = sum(score.values())  # a high score of one class lowers the others, as probabilities do
    return _aurocs({key: kind == int(key) for key in score}, {k: v - total / 3 for k, v in score.items()})


def _aurocs(truth: dict[str, np.ndarray], scores: dict[str, np.ndarray]) -> Statistic:
    columns = {
        key: LabelColumn(truth[key].astype(float), score, np.zeros(len(score)))
        for key, score in scores.items()
    }
    return lambda weights: {"macro_auroc": float(np.mean([one.auroc(weights) for one in columns.values()]))}


def sizes_of(name: str, patients: int) -> list[Sizes]:
    """Return the patients with and without each class in a design of AUROC; nothing for others."""
    shares = {"AUROC of a fifth": [0.2], "macro AUROC": [0.5, 0.3, 0.2]}
    positive = [round(share * patients) for share in shares.get(name, [0.5] if "AUROC" in name else [])]
    return [(one, patients - one) for one in positive]


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
LATER_CHECKS: dict[str, Draw] = {
    "AUROC of a fifth": rare_auroc,
    "AUROC 0.7": lambda rng, n: auroc(rng, n, shift=0.74),
    "macro AUROC": macro_auroc,
    "Dice, 10 % of tumours missed": mean_of(
        lambda rng, n: np.where(rng.random(n) < 0.1, 0.0, rng.beta(12, 3, n))
    ),
    "Dice, 20 % of tumours hardly found": mean_of(
        lambda rng, n: np.where(rng.random(n) < 0.2, rng.beta(1, 9, n), rng.beta(9, 3, n))
    ),
}
ALL = DESIGNS | CHECKS | LATER_CHECKS
EXACT = "accuracy, exact mean over 0.5 to 0.95"


def coverage(name: str, patients: int, count: int) -> dict[str, Any]:
    """Return the share of simulated test sets whose interval covers the truth, and that of percentiles."""
    draw, rng, sizes = ALL[name], np.random.default_rng(patients), sizes_of(name, patients)
    covered, with_failures, by_percentiles, inside, stated = 0, 0, 0, True, 0
    [(key, truth)] = draw(np.random.default_rng(0), _LARGE)(np.ones(_LARGE)).items()
    for number in range(count):
        statistic = draw(rng, patients)
        value = statistic(np.ones(patients))[key]
        without = [statistic(1.0 - row)[key] for row in np.eye(patients)]
        low, high = interval(key, value, without, sizes) or (math.nan, math.nan)
        covered += low <= truth <= high
        inside &= low >= 0 and (high <= 1 or key == "hd95_mm")
        unseen = unseen_failures(key, value, without)
        stated += unseen is not None
        with_failures += (1 - (unseen or 0.0)) * low <= truth <= high
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
        **({"coverage with unseen failures": with_failures / count} if stated else {}),
        "inside the range": bool(inside),
        "within 0.93 to 0.97": bool(0.93 <= share <= 0.97),
    }


def exact_accuracy(patients: int) -> dict[str, Any]:
    """Return the exact coverage of accuracies from 0.5 to 0.95: of a count it jumps with the true value."""
    right, truths = np.arange(patients + 1), np.linspace(0.5, 0.95, 451)
    ends = []
    for count in right:
        scores = np.arange(patients) < count
        without = [float(np.delete(scores, number).mean()) for number in range(patients)]
        ends.append(interval("accuracy", count / patients, without) or (math.nan, math.nan))
    low, high = np.array(ends).T
    covered = np.array(
        [
            stats.binom.pmf(right, patients, true)[(low <= true) & (true <= high)].sum()
            for true in truths.tolist()
        ]
    )
    share = float(covered.mean())
    return {
        "metric": EXACT,
        "patients": patients,
        "coverage": share,
        "lowest": float(covered.min()),
        "highest": float(covered.max()),
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
    parser.add_argument(
        "--only", default="", help="text in the names of rows to simulate; --out keeps others"
    )
    asked = parser.parse_args()
    np.seterr(invalid="ignore", divide="ignore")
    known = json.loads(asked.out.read_text(encoding="utf-8")) if asked.only and asked.out else []
    rows = {(row["metric"], row["patients"]): row for row in known}
    for name, patients in product([*ALL, EXACT], PATIENTS):
        if asked.only in name:
            exact = name == EXACT
            row = exact_accuracy(patients) if exact else coverage(name, patients, asked.simulations)
            rows[name, patients] = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            sys.stdout.write(f"{json.dumps(rows[name, patients])}\n")
            sys.stdout.flush()
    lines = [json.dumps(rows[place]) for place in product([*ALL, EXACT], PATIENTS) if place in rows]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
