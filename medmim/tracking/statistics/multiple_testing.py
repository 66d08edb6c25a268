"""Many tests, one error rate: Holm's procedure with weights, so that no study claims by trying often."""

from __future__ import annotations

from collections.abc import Sequence


def adjusted(p_values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return p values adjusted so that claiming those ≤ 0.05 errs in at most 5 % of studies.

    Weighted Holm (Holm, Scand. J. Statist. 6, 1979, section 4): step down by p / weight; each is multiplied
    by the weight that is left over its own. Equal weights give the plain procedure.

    Args:
        p_values: of all tests of a study.
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


def split_alpha(first: int, second: int) -> tuple[float, float]:
    """Return the weight of each test of two families that share the error; an empty one leaves it all."""
    if not first or not second:
        return (1.0 / max(first, 1), 1.0 / max(second, 1))
    return (0.5 / first, 0.5 / second)
