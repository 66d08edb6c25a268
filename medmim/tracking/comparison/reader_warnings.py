"""Warnings for readers of a comparison: few seeds, unequal budgets, contamination, weak runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medmim.data.dataset.contamination_certificate import CONTAMINATED
from medmim.errors import counted
from medmim.tracking.comparison.arms import Arm
from medmim.tracking.comparison.equality import unequal_steps
from medmim.tracking.comparison.runs import AT_CHANCE, RunScores
from medmim.tracking.statistics.paired_test import PairedTest
from medmim.training.evaluation.resampled_metrics import never_predicted

_ONE_SEED = "one seed per arm: intervals cover patients only, not training"
_ONE_SET = (
    "claims hold for these predictions only: another training of the same tool may score differently; "
    "to include this variation, repeat --predictions NAME=… with further trainings"
)
_SKEWED = 1.0
_SKEWED_PATIENTS = 8  # fewer show no shape


def reader_warnings(
    arms: Sequence[Arm], runs: Sequence[RunScores], tests: Sequence[tuple[str, str, PairedTest]], remedy: str
) -> tuple[str, ...]:
    """Return one line for each.

    Args:
        tests: titles of the first and the second arm of each contrast, and its test.
        remedy: as `seeds_remedy` returns it.
    """
    design = _of_design(arms, runs, len(tests), remedy)
    return (*design, *_of_missing_folds(arms), *_of_runs(arms, runs), *_of_tests(tests))


def _of_design(arms: Sequence[Arm], runs: Sequence[RunScores], contrasts: int, remedy: str) -> list[str]:
    found = list(unequal_steps(runs))
    if shared := [arm.title for arm in arms if arm.shares_pretraining]:
        found.append(
            f"the seeds of {', '.join(shared)} start from the same weights: results hold for these weights, "
            "and another pretraining may score differently; for a claim about method, mask or ratio pretrain "
            "once for each seed, as `medmim study` does"
        )
    if len({arm.seeds for arm in arms}) > 1:
        found.append("the arms were run with different seeds: pairs are compared on those that both have")
    if all(len(arm.seeds) == 1 for arm in arms):
        found.append(_ONE_SET if arms[0].from_files else _ONE_SEED + remedy)
    if len(arms) == 1 and arms[0].from_files:
        found.append(f"only one set of predictions ('{arms[0].title}'): add --predictions NAME=… to compare")
    elif len(arms) == 1:
        found.append(f"only one arm ('{arms[0].title}'): fine-tune from another --init to compare")
    elif len({arm.stratum for arm in arms}) == len(arms):
        found.append(
            f"no two arms can be compared: each of {len(arms)} encoders or label fractions has one arm, and "
            "arms are compared within them; add masks, arms or scratch: true"
        )
    elif not contrasts:
        count = min(len(arm.patients) for arm in arms)
        found.append(
            f"no two arms can be compared: expected 2 or more test patients with a score, got {count}"
        )
    return found


def _of_missing_folds(arms: Sequence[Arm]) -> list[str]:
    """Return a line for each arm some of whose patients have no score of some seeds."""
    counts = [int(np.isnan(arm.scores).any(axis=0).sum()) for arm in arms]
    return [
        f"{count} of {counted(len(arm.patients), 'test patient')} of {arm.title} have no score of some "
        "seeds, whose folds are missing: its mean depends on which; its differences from other arms leave "
        "these patients out"
        for arm, count in zip(arms, counts, strict=True)
        if count
    ]


def _of_runs(arms: Sequence[Arm], runs: Sequence[RunScores]) -> list[str]:
    """Return lines about contamination, runs at the level of chance, and classes never predicted."""
    found = [
        f"the training of {arm.title} saw test patients: its score is optimistic"
        for arm in arms
        if arm.contamination == CONTAMINATED
    ]
    known = {run.run_id: run for run in runs}
    for arm in arms:
        own = [known[name] for name in arm.runs if name in known]
        if weak := sum(AT_CHANCE in run.tags for run in own):
            found.append(
                f"{weak} of {counted(len(own), 'run')} of {arm.title} scored at the level of chance on "
                "validation patients, like an untrained model; train longer"
            )
        missed = [never_predicted(run.cases) for run in own]
        for name in dict.fromkeys(name for names in missed for name in names):
            times = sum(name in names for names in missed)
            found.append(
                f"{times} of {counted(len(own), 'run')} of {arm.title} predicted the class '{name}' in no "
                "test case: training was too short for this score to compare methods; train longer"
            )
    return found


def _of_tests(tests: Sequence[tuple[str, str, PairedTest]]) -> list[str]:
    shown = [one for one in tests if one[2].patients >= _SKEWED_PATIENTS]
    first, second, test = max(shown, key=lambda one: abs(one[2].skewness), default=("", "", None))
    if test is None or abs(test.skewness) <= _SKEWED:
        return []
    return [
        f"the patients' differences are skewed (most for {first} against {second}, skewness "
        f"{test.skewness:+.1f}), while the sign-flip test assumes symmetry: check the figures"
    ]
