"""Metrics of ordered grades: quadratic kappa, mean distance, and the share of cases within one grade."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Row = Mapping[str, Any]
Grades = Int[np.ndarray, " cases"]


def grades_of(probabilities: Mapping[str, float], truth: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a row that the metrics of grades read.

    Args:
        probabilities: of each grade; the most probable one is predicted.
        truth: true grade.
        names: grades from the lowest to the highest.
    """
    order = list(names)
    guess = max(order, key=lambda name: probabilities[name])
    return {"grade": order.index(truth), "predicted_grade": order.index(guess), "grades": len(order)}


def quadratic_kappa(counts: Float[np.ndarray, "truth guess"]) -> float:
    """Return Cohen's kappa with quadratic weights (Psychological Bulletin 1968).

    Args:
        counts: cases of each true and predicted grade.

    Returns:
        1 for perfect agreement, 0 for agreement by chance; NaN if all cases have one grade in both.
    """
    places = np.arange(len(counts))
    cost = (places[:, None] - places) ** 2
    total = counts.sum()
    by_chance = (cost * np.outer(counts.sum(axis=1), counts.sum(axis=0))).sum()
    return 1 - float((cost * counts).sum() * total / by_chance) if by_chance else math.nan


def grade_table(truth: Grades, guess: Grades, grades: int) -> Float[np.ndarray, "truth guess"]:
    """Return the number of cases of each true and predicted grade."""
    counts = np.zeros((grades, grades))
    np.add.at(counts, (truth, guess), 1)
    return counts


def grade_arrays(rows: Sequence[Row]) -> tuple[Grades, Grades]:
    """Return the true and the predicted grade of each row."""
    values = np.array([(row["grade"], row["predicted_grade"]) for row in rows], dtype=np.int64)
    truth, guess = values.reshape(-1, 2).T
    return truth, guess


def ordinal_means(rows: Sequence[Row]) -> dict[str, float]:
    """Return quadratic kappa, the mean distance in grades, and the share of cases at most one grade off.

    Args:
        rows: rows with the entries of `grades_of`.
    """
    if not rows:
        return {}
    truth, guess = grade_arrays(rows)
    distance = np.abs(truth - guess)
    found = {
        "quadratic_kappa": quadratic_kappa(grade_table(truth, guess, int(rows[0]["grades"]))),
        "mean_grade_error": float(distance.mean()),
        "within_one_grade": float((distance <= 1).mean()),
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}
