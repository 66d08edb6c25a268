"""Control of the error rate over many tests: weighted Holm, and alpha spending over uses of a test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

QUESTIONS = {"control": 0.45, "best": 0.45, "evenness": 0.1}  # share of the error rate of each


def adjusted(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return p values adjusted so that claiming those ≤ 0.05 errs in at most 5 % of comparisons.

    Weighted Holm (Holm, Scand. J. Statist. 6, 1979, section 4): step down by p / weight; each is multiplied
    by the weight that remains, divided by its own. Equal weights give the plain procedure.

    Args:
        p_values: of all tests of a comparison.
        weights: positive, of each.
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number] / weights[number])
    left, highest = sum(weights), 0.0
    result = [1.0] * len(p_values)
    for number in order:
        highest = max(highest, min(1.0, p_values[number] * left / weights[number]))
        result[number] = highest
        left -= weights[number]
    return result


def share_alpha(questions: Sequence[str]) -> list[float]:
    """Return the weight of each test, given the question that it answers; the weights add up to 1.

    Each question has its share of the error rate, divided equally between its tests; the share of one that
    has none goes to the others.
    """
    counts = Counter(questions)
    whole = sum(QUESTIONS[question] for question in counts)
    return [QUESTIONS[question] / whole / counts[question] for question in questions]


def spent_alpha(challenge: int, *, level: float) -> float:
    """Return the level of the n-th challenge on one test set; all of them together err at most at `level`.

    Args:
        challenge: its number, from 1.
        level: of all challenges that will ever be, as 1/2 + 1/6 + 1/12 + … = 1.
    """
    return level / (challenge * (challenge + 1))
