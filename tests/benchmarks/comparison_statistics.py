"""Simulate comparisons with a known truth: false claims, coverage, power, repeated challenges, mask evenness.

Prints one table and writes it as JSON. About four minutes on one core:

    python -m tests.benchmarks.comparison_statistics --out docs/results/comparison_statistics.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medmim.tracking.comparison.findings import find
from medmim.tracking.comparison.runs import CONTROL, RunScores
from medmim.tracking.statistics.evenness_hypothesis import evenness_and_score
from medmim.tracking.statistics.multiple_testing import adjusted, share_alpha, spent_alpha
from medmim.tracking.statistics.paired_test import LEVEL, PairedTest, paired_tests
from medmim.tracking.statistics.seed_variance import mean_interval, seed_variance

CHALLENGERS = 20
MASKS, RATIOS = 5, 4


@dataclass(frozen=True)
class Truth:
    """A simulated comparison: standard deviations are shares of a score, so 0.008 is 0.8 points of Dice.

    Attributes:
        arms, seeds, patients: sizes; the first arm is the control.
        seed: of the training seeds.
        case: of how differently arms suit patients.
        noise: of a patient's score between trainings.
        pretraining: of pretrainings, one of which all seeds of an arm share; 0 where each seed has its own.
        skewed: whether the difficulty of patients is skewed as Dice is, or normal.
    """

    arms: int = 2
    seeds: int = 3
    patients: int = 27
    seed: float = 0.008
    case: float = 0.05
    noise: float = 0.05
    skewed: bool = True
    pretraining: float = 0.0

    def draw(self, rng: np.random.Generator, *, gap: float = 0.0) -> np.ndarray:
        """Return scores (arms, seeds, patients); the last arm is `gap` above the others."""
        spread = rng.beta(8, 2, self.patients) if self.skewed else rng.normal(0.8, 0.12, self.patients)
        scores = spread + rng.normal(0, self.case, (self.arms, 1, self.patients))
        scores = scores + rng.normal(0, self.seed, (self.arms, self.seeds, 1))
        scores = scores + rng.normal(0, self.noise, (self.arms, self.seeds, self.patients))
        scores[-1] += gap
        if self.pretraining:
            scores[1:] += rng.normal(0, self.pretraining, (self.arms - 1, 1, 1))
        return scores

    def words(self) -> dict[str, Any]:
        """Return the sizes for a table."""
        left_out = ("case", "noise", *(("pretraining",) if not self.pretraining else ()))
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def tags(self, arm: int, seed: int) -> dict[str, str]:
        """Return the tags of a run: its seed and its pretraining."""
        return {"seed": str(seed), "lineage": f"{arm}" if self.pretraining else f"{arm} {seed}"}


def tested(scores: np.ndarray) -> tuple[list[PairedTest], list[float]]:
    """Test all pairs of arms as a comparison does; return tests and adjusted p values."""
    pairs = list(combinations(range(len(scores)), 2))
    weights = share_alpha(["control" if first == 0 else "best" for first, _ in pairs])
    levels = [LEVEL * weight for weight in weights]
    differences = [scores[second] - scores[first] for first, second in pairs]
    tests = paired_tests(differences, seed_variance(list(scores)), levels=levels)
    return tests, adjusted([one.p for one in tests], weights)


def false_claims_and_coverage(truth: Truth, count: int) -> Iterator[dict[str, Any]]:
    """Yield the share of studies with a false claim, and the coverage of both kinds of interval."""
    rng = np.random.default_rng(1)
    claims = of_difference = of_arm = 0
    for _ in range(count):
        scores = truth.draw(rng)
        tests, p_values = tested(scores)
        claims += min(p_values) <= LEVEL
        of_difference += tests[0].low <= 0 <= tests[0].high
        low, high = mean_interval(scores[0], seed_variance(list(scores))) or (math.nan, math.nan)
        of_arm += low <= 0.8 <= high
    bound = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)
    words = {**truth.words(), "simulations": count}
    yield {"question": "false claims", **words, "share": claims / count, "at most": bound}
    covered = {"at least": 0.93, "at most": 0.97}
    yield {"question": "coverage of a difference", **words, "share": of_difference / count, **covered}
    yield {"question": "coverage of an arm's mean", **words, "share": of_arm / count, **covered}


def whole_comparison(truth: Truth, count: int) -> Iterator[dict[str, Any]]:
    """Yield the share of comparisons of equal methods that claim something, through the whole engine.

    Where the seeds of an arm share a pretraining, claims about these weights are counted apart.
    """
    rng = np.random.default_rng(5)
    claims = 0
    for _ in range(count):
        runs = [
            RunScores(
                f"{arm} {seed}", f"arm {arm}" if arm else CONTROL, truth.tags(arm, seed), _cases(values)
            )
            for arm, by_seed in enumerate(truth.draw(rng))
            for seed, values in enumerate(by_seed)
        ]
        found = find(runs)
        assert truth.seeds == 1 or found.arms[-1].shares_pretraining == bool(truth.pretraining)
        claims += any(contrast.claimed for contrast in found.contrasts)
    bound = (LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)) * (truth.seeds > 1)
    words = {**truth.words(), "simulations": count}
    if truth.pretraining:  # they differ truly, though their methods do not
        words["share about these weights only"], claims, bound = claims / count, 0, 0.0
    yield {"question": "claims of a whole comparison", **words, "share": claims / count, "at most": bound}


def _cases(values: np.ndarray) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"patient": str(number), "label": "t", "dice": float(value), "hd95_mm": None}
        for number, value in enumerate(values)
    )


def power(truth: Truth, count: int) -> Iterator[dict[str, Any]]:
    """Yield how often the median detectable difference is found."""
    rng = np.random.default_rng(2)
    detectable = float(np.median([tested(truth.draw(rng))[0][0].detectable for _ in range(count)]))
    found = [tested(truth.draw(rng, gap=detectable))[0][0].p <= LEVEL for _ in range(count)]
    yield {
        "question": "detectable differences found",
        **truth.words(),
        "simulations": count,
        "share": float(np.mean(found)),
        "at least": 0.78,
        "at most": 0.82,
    }


def challenges(truth: Truth, count: int) -> Iterator[dict[str, Any]]:
    """Yield how often one of 20 equal challengers becomes champion on one test set."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(count):
        scores = Truth(**{**vars(truth), "arms": CHALLENGERS + 1}).draw(rng)
        for number in range(1, CHALLENGERS + 1):
            pair = scores[[0, number]]
            (test,) = paired_tests([pair[1] - pair[0]], seed_variance(list(pair)))
            if test.mean > 0 and test.p <= spent_alpha(number, level=LEVEL):
                wrong += 1
                break
    bound = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)
    words = {**truth.words(), "simulations": count}
    yield {
        "question": "false champions among 20 challengers",
        **words,
        "share": wrong / count,
        "at most": bound,
    }


def evenness(count: int) -> Iterator[dict[str, Any]]:
    """Yield how often evenness is claimed to matter while only masks differ, each at four ratios."""
    rng = np.random.default_rng(4)
    masks = [f"mask {number}" for number in range(MASKS) for _ in range(RATIOS)]
    wrong = 0
    for _ in range(count):
        uneven = np.repeat(rng.normal(0, 1, MASKS), RATIOS) + rng.normal(0, 0.2, MASKS * RATIOS)
        scores = np.repeat(rng.normal(0, 0.02, MASKS), RATIOS) + rng.normal(0, 0.005, MASKS * RATIOS)
        found = evenness_and_score(masks, uneven.tolist(), scores.tolist())
        wrong += found is not None and found.p <= LEVEL
    bound = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / count)
    words = {"arms": MASKS * RATIOS, "simulations": count}
    yield {"question": "false claims of evenness", **words, "share": wrong / count, "at most": bound}


def table(count: int) -> list[dict[str, Any]]:
    """Return all rows."""
    truths = [
        Truth(),
        Truth(seeds=2),
        Truth(patients=10),
        Truth(patients=12, seeds=2),
        Truth(patients=60, seed=0.02),
        Truth(seeds=2, seed=0.02),
        Truth(arms=5),
        Truth(arms=5, seeds=2, patients=15),
        Truth(skewed=False, patients=10, seed=0.0),
    ]
    rows = [row for truth in truths for row in false_claims_and_coverage(truth, count)]
    designs = [Truth(), Truth(seeds=2), Truth(patients=60, seed=0.02), Truth(seeds=5, patients=40)]
    rows += [row for truth in designs for row in power(truth, count)]
    designs = [Truth(seeds=1), Truth(seeds=1, arms=5), Truth(), Truth(arms=5, seeds=2)]
    designs += [Truth(pretraining=0.008), Truth(pretraining=0.02)]
    rows += [row for truth in designs for row in whole_comparison(truth, count // 4)]
    rows += list(challenges(Truth(), count // 3))
    rows += list(evenness(count))
    return rows


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--simulations", type=int, default=1000)
    asked = parser.parse_args()
    rows = table(asked.simulations)
    for row in rows:
        low, high = row.get("at least", 0.0), row["at most"]
        row["within"] = bool(low <= row["share"] <= high)
    rounded = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    lines = ",\n".join(json.dumps(row) for row in rounded)
    sys.stdout.write(f"[\n{lines}\n]\n")
    if asked.out:
        asked.out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
