"""Verdicts on contrasts: whether a difference is evidence, and the sentence that says so or why not."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medmim.data.dataset.contamination_certificate import CONTAMINATED, EXACT_ONLY, POSSIBLE, UNKNOWN
from medmim.errors import counted
from medmim.tracking.comparison.arms import Arm
from medmim.tracking.statistics.paired_test import LEVEL, MIN_PATIENTS, PairedTest

MIN_SEEDS = 2  # below, another seed might turn any difference around


@dataclass(frozen=True)
class Contrast:
    """Two arms of one stratum; the difference is first minus second.

    Attributes:
        first, second: titles of the arms.
        against: `control` or `best`: did pretraining help, or which arm is best.
        p_adjusted: p value that allows for all comparisons.
        claimed: whether the difference is evidence.
        interval_over: what the interval of the test covers.
    """

    first: str
    second: str
    against: str
    test: PairedTest
    p_adjusted: float
    claimed: bool
    interval_over: str
    verdict: str

    def as_json(self) -> dict[str, Any]:
        """Return the contrast and its test in one object."""
        content = asdict(self)
        test = content.pop("test")
        finite = {key: value if math.isfinite(value) else None for key, value in test.items()}
        return {**content, **finite}


def judge(
    first: Arm,
    second: Arm,
    test: PairedTest,
    p_adjusted: float,
    *,
    against: str,
    metric: str,
    tests: int,
    obstacle: str,
) -> Contrast:
    """Decide whether a difference is evidence, and return it with its sentence; see `verdict`."""
    claimed = not obstacle and p_adjusted <= LEVEL
    sentence = verdict(first, second, test, metric=metric, claimed=claimed, tests=tests, obstacle=obstacle)
    covered = interval_over(first, second, test)
    return Contrast(first.title, second.title, against, test, p_adjusted, claimed, covered, sentence)


def verdict(
    first: Arm,
    second: Arm,
    test: PairedTest,
    *,
    metric: str,
    claimed: bool,
    tests: int = 1,
    obstacle: str = "",
    name: str = "",
) -> str:
    """Return the sentence that states what a paired difference shows.

    Args:
        second: the other; the difference is first minus second.
        claimed: whether the difference is evidence.
        tests: number of comparisons that are counted together.
        obstacle: why nothing can be claimed.
        name: what the second arm is called; its title without.
    """
    sentence = (
        f"{first.title} {'above' if test.mean >= 0 else 'below'} {name or second.title} by "
        f"{abs(100 * test.mean):.1f} points of {metric}, 95 % interval {100 * test.low:+.1f} … "
        f"{100 * test.high:+.1f} over {interval_over(first, second, test)}: "
    )
    excludes_zero = test.low > 0 or test.high < 0
    if obstacle:
        sentence += obstacle
    elif claimed:
        sentence += f"evidence of a difference{_restriction(first, second)}"
    elif excludes_zero and tests > 1:
        sentence += f"no evidence of a difference after correction for {tests} comparisons"
    elif excludes_zero:
        sentence += f"no evidence of a difference, as the sign-flip test has p = {test.p:.3f}"
    else:
        sentence += "no evidence of a difference"
    if not obstacle and not claimed and math.isfinite(test.detectable):
        points = f"{100 * test.detectable:.1f} points"
        sentence += f"; a true difference of {points} would be found with 80 % probability"
    for doubt in (POSSIBLE, UNKNOWN, EXACT_ONLY):
        if doubtful := [arm.title for arm in (first, second) if arm.contamination == doubt]:
            sentence += f" (contamination of {' and '.join(doubtful)}: {doubt})"
    return sentence


def obstacle_to(
    first: Arm, second: Arm, test: PairedTest, *, differences: Collection[str] = (), remedy: str = ""
) -> str:
    """Return why no claim can be made about two arms; empty where one can."""
    contaminated = [arm.title for arm in (first, second) if arm.contamination == CONTAMINATED]
    if contaminated:
        return f"no claim, because the training of {' and '.join(contaminated)} saw test patients"
    if test.patients < MIN_PATIENTS:
        return f"too few patients for a claim (at least {MIN_PATIENTS} are needed)"
    if differences:
        listed = f"{counted(len(differences), 'difference')}, listed at the top"
        return f"no claim, because the arms are unequal ({listed})"
    if test.seeds < MIN_SEEDS and not (first.from_files and second.from_files):
        return f"no claim from one seed, because another seed may reverse the result{remedy}"
    return ""


def _restriction(first: Arm, second: Arm) -> str:
    """Return what a claim is about where seeds share a pretraining and so do not show how it varies."""
    shared = [arm.title for arm in (first, second) if arm.shares_pretraining]
    if not shared:
        return ""
    titles = " and ".join(shared)
    return f" for these weights, not for a method or mask: seeds of {titles} share a pretraining"


def interval_over(first: Arm, second: Arm, test: PairedTest) -> str:
    """Return what the interval of a test covers."""
    if first.from_files and test.seeds == 1:
        return f"{counted(test.patients, 'patient')}, one set of predictions each"
    if test.seeds > 1:
        what = " of fine-tuning" if first.shares_pretraining or second.shares_pretraining else ""
        return f"{counted(test.patients, 'patient')} and {counted(test.seeds, 'seed')}{what}"
    if test.counts_seeds:
        return (
            f"{counted(test.patients, 'patient')}, one seed, and the variation of the arms with several seeds"
        )
    return f"{counted(test.patients, 'patient')} only, one seed"


def seeds_remedy(arms: Sequence[Arm], command: str) -> str:
    """Return how to train the seeds that are missing, with the minutes that these runs predict."""
    minutes = sum(max(MIN_SEEDS - len(arm.seeds), 0) * arm.minutes for arm in arms)
    if not any(len(arm.seeds) < MIN_SEEDS and not arm.from_files for arm in arms):
        return ""
    predicted = f" in about {counted(max(round(minutes), 1), 'minute')}" if minutes else ""
    return f"; `{command}` trains the missing seeds{predicted}"
