"""How many test patients and seeds a study needs to find a gain of 2, 3 or 5 points with a power of 80 %.

The spread of patients' paired differences comes from stored fine-tunings of one dataset, of which each pair
counts; studies are then simulated, and tested with the engine's own paired test. No two stored trainings
differ in their seed alone, so the spread of seeds is assumed (`SEED_SDS`). Half of the variance of paired
differences is taken as the arms' (it stays for all seeds), half as that of single trainings.

    python -m tests.benchmarks.study_power --cases hippocampus=A/cases.jsonl,B/cases.jsonl --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from medmim.tracking.statistics.paired_test import LEVEL, _crossed_p, sign_flip_p
from medmim.tracking.statistics.power import POWER
from medmim.tracking.statistics.seed_variance import seed_variance
from medmim.training.evaluation.resampled_metrics import pseudo_values

GAINS = (0.02, 0.03, 0.05)
SEEDS = (2, 3, 5, 10)
SEED_SDS = (0.005, 0.01, 0.02)  # of the mean score of an arm
PATIENTS = (10, 15, 20, 27, 40, 60, 90, 130, 190, 260, 400)
WORDS = ("seeds", "seed_sd", "gain")


def spread_of(files: Sequence[Path]) -> tuple[float, float, int]:
    """Return the SD over patients of paired differences, that of one training, and the number of pairs.

    One training has no pair: its scores are then taken as independent of another's, which is too wide.
    """
    runs = [pseudo_values([json.loads(line) for line in path.read_text().splitlines()]) for path in files]
    alone = float(np.sqrt(np.mean([np.var(list(run.values()), ddof=1) for run in runs])))
    pairs = [[a[who] - b[who] for who in a.keys() & b.keys()] for a, b in combinations(runs, 2)]
    if not pairs:
        return 2**0.5 * alone, alone, 0
    return float(np.sqrt(np.mean([np.var(pair, ddof=1) for pair in pairs]))), alone, len(pairs)


def power(
    rng: np.random.Generator, design: Mapping[str, float], *, sd: float, patients: int, count: int
) -> float:
    """Return the share of simulated studies of two arms that claim the gain.

    The p value is that of `paired_tests`, computed for all studies at once.

    Args:
        rng: source of all numbers.
        design: number of seeds, SD of seeds, and true gain.
        sd: SD over patients of paired differences of single trainings.
        patients: number of test patients.
        count: simulated studies.
    """
    seeds, each = (
        int(design["seeds"]),
        sd / 2,
    )  # variance: two arms, each with a fixed part and one per training
    arms = rng.normal(0, each, (count, 2, 1, patients)) + rng.normal(0, each, (count, 2, seeds, patients))
    arms = arms + rng.normal(0, design["seed_sd"], (count, 2, seeds, 1))
    by_patient = (arms[:, 1] - arms[:, 0]).mean(axis=1) + design["gain"]
    of_seeds = [seed_variance(list(pair)) for pair in arms]
    p_values = np.maximum(
        _crossed_p(
            np.abs(by_patient.mean(axis=1)),
            by_patient.var(axis=1, ddof=1) / patients,
            np.array([2 * one.variance / seeds for one in of_seeds]),
            np.full(count, patients - 1),
            of_seeds[0].df,
        ),
        sign_flip_p(by_patient),
    )
    return float(np.mean((by_patient.mean(axis=1) > 0) & (p_values <= LEVEL)))


def needed(rng: np.random.Generator, design: Mapping[str, float], *, sd: float, count: int) -> int | None:
    """Return the fewest patients of `PATIENTS` that give the power, by bisection; None if the most do not."""
    low, high = 0, len(PATIENTS)
    while low < high:
        middle = (low + high) // 2
        enough = power(rng, design, sd=sd, patients=PATIENTS[middle], count=count) >= POWER
        low, high = (low, middle) if enough else (middle + 1, high)
    return PATIENTS[low] if low < len(PATIENTS) else None


def rows_of(name: str, files: Sequence[Path], count: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each number of seeds, SD of seeds and gain."""
    sd, alone, pairs = spread_of(files)
    rng = np.random.default_rng(0)
    for values in product(SEEDS, SEED_SDS, GAINS):
        design = dict(zip(WORDS, values, strict=True))
        patients = needed(rng, design, sd=sd, count=count)
        spread = {"sd_of_differences": round(sd, 4), "sd_of_patients": round(alone, 4), "pairs": pairs}
        yield {"setting": name, **spread, **design, "patients_for_80_percent": patients, "simulations": count}


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", action="append", required=True, help="NAME=FILE,FILE…; may be repeated")
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    rows = []
    for one in asked.cases:
        name, _, files = one.partition("=")
        for row in rows_of(name, [Path(path) for path in files.split(",")], asked.simulations):
            rows.append(row)
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    if asked.out:
        lines = ",\n".join(json.dumps(row) for row in rows)
        asked.out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
