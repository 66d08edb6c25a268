"""Findings of a comparison: arms with intervals, contrasts with paired tests, and one sentence for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from medmim.errors import RunError
from medmim.tracking.comparison.arms import Arm, arms_of
from medmim.tracking.comparison.equality import differences
from medmim.tracking.comparison.reader_warnings import reader_warnings
from medmim.tracking.comparison.runs import TITLES, RunScores
from medmim.tracking.comparison.verdicts import MIN_SEEDS, Contrast, judge, obstacle_to, seeds_remedy
from medmim.tracking.statistics.evenness_hypothesis import MaskEvenness, evenness_and_score
from medmim.tracking.statistics.multiple_testing import adjusted, share_alpha
from medmim.tracking.statistics.paired_test import LEVEL, PairedTest, paired_tests
from medmim.tracking.statistics.seed_variance import Scores, seed_variance
from medmim.training.evaluation.resampled_metrics import metric_of, pseudo_values


@dataclass(frozen=True)
class Findings:
    """All that a comparison found.

    Attributes:
        metric: its title, such as Dice.
        arms: controls first in each stratum.
        contrasts: against the controls first, then against the best arm.
        best: stratum → title of the arm with the highest mean.
        differences: what differs between arms and should not; while there is one, nothing is claimed.
        warnings: see `reader_warnings`.
        evenness: rank correlation of mask evenness with score, one for each stratum with enough masks.
    """

    metric: str
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    best: Mapping[str, str]
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    evenness: tuple[MaskEvenness, ...] = ()

    @property
    def verdicts(self) -> list[str]:
        """Sentences of the contrasts, those against the control first."""
        return [contrast.verdict for contrast in self.contrasts]

    def against(self, title: str, question: str) -> Contrast | None:
        """Return the contrast of an arm (first) that answers a question; None where there is none."""
        found = (one for one in self.contrasts if one.against == question and one.first == title)
        return next(found, None)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        contrasts = [one.as_json() for one in self.contrasts]
        return {
            "metric": self.metric,
            "arms": [arm.as_json() for arm in self.arms],
            "contrasts": contrasts,
            "pairs": contrasts,
            "best": dict(self.best),
            "verdicts": self.verdicts,
            "hypotheses": [one.sentence for one in self.evenness],
            "differences": list(self.differences),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class _Pair:
    """Two arms that are tested: first minus second."""

    first: Arm
    second: Arm
    differences: Scores

    @property
    def question(self) -> str:
        return "control" if self.second.is_control and not self.first.is_control else "best"


def find(
    runs: Sequence[RunScores],
    *,
    arms: Sequence[Arm] | None = None,
    varied: Collection[str] = (),
    command: str = "medmim compare --seeds 2",
) -> Findings:
    """Compare arms within each stratum.

    The error rate of 5 % for the whole comparison is shared by three questions: did pretraining help (arms
    against the control), which arm is best, and do even masks score higher. The best arm is chosen by the
    data that it is tested on, so all pairs of arms are counted there, though only those with the best are
    shown.

    Args:
        runs: finished fine-tuning runs, tested on the same patients within a stratum.
        arms: as `arms_of` gathers them, where the caller has added to them.
        varied: settings of pretraining that differ on purpose, besides method, mask, ratio and their options.
        command: trains the seeds that are missing, for the sentences of comparisons with one seed.
    """
    runs = scored(runs)
    if not runs:
        raise RunError(
            "no finished run has a score: expected test patients with a labelled structure; add labels"
        )
    arms = arms_of(runs) if arms is None else arms
    strata = list(dict.fromkeys(arm.stratum for arm in arms))
    best = {
        stratum: max((arm for arm in arms if arm.stratum == stratum), key=lambda arm: arm.mean).title
        for stratum in strata
    }
    unequal = {
        stratum: differences([run for run in runs if run.stratum == stratum], varied=varied)
        for stratum in strata
    }
    pairs, tests, p_values, evenness = _tested(arms, strata)
    metric, remedy = TITLES[metric_of(runs[0].cases)], seeds_remedy(arms, command)
    judged, contrasts = partial(judge, metric=metric, tests=len(pairs)), []
    for pair, tested, p in zip(pairs, tests, p_values, strict=True):
        title = best[pair.first.stratum]
        if pair.question == "best" and title not in (pair.first.title, pair.second.title):
            continue
        first, second, test = pair.first, pair.second, tested
        if pair.question == "best" and second.title == title:
            first, second, test = second, first, tested.reversed()
        obstacle = obstacle_to(first, second, test, differences=unequal[first.stratum], remedy=remedy)
        contrasts.append(judged(first, second, test, p, against=pair.question, obstacle=obstacle))
    contrasts.sort(key=lambda one: one.against != "control")
    found = tuple(line for lines in unequal.values() for line in lines)
    shown = [(one.first, one.second, one.test) for one in contrasts]
    warnings = reader_warnings(arms, runs, shown, remedy)
    return Findings(metric, tuple(arms), tuple(contrasts), best, found, warnings, evenness)


def scored(runs: Sequence[RunScores]) -> list[RunScores]:
    """Return the runs that have a score; one whose test patients have no labelled structure has none."""
    return [run for run in runs if run.cases and pseudo_values(run.cases)]


def _tested(
    arms: Sequence[Arm], strata: Sequence[str]
) -> tuple[list[_Pair], list[PairedTest], list[float], tuple[MaskEvenness, ...]]:
    """Test all pairs of arms and the evenness of masks, and adjust the p values for all of them."""
    pairs = [
        _Pair(first, second, paired)
        for second, first in combinations(arms, 2)
        if first.stratum == second.stratum and (paired := _differences(first, second)).shape[1] > 1
    ]
    correlations = [found for stratum in strata if (found := _evenness(arms, stratum)) is not None]
    questions = [*(pair.question for pair in pairs), *("evenness" for _ in correlations)]
    weights = share_alpha(questions)
    tests: dict[int, PairedTest] = {}
    for stratum in strata:
        chosen = [number for number, pair in enumerate(pairs) if pair.first.stratum == stratum]
        of_seeds = seed_variance([arm.scores for arm in arms if arm.stratum == stratum])
        levels = [LEVEL * weights[number] for number in chosen]
        if chosen:
            results = paired_tests([pairs[n].differences for n in chosen], of_seeds, levels=levels)
            tests |= dict(zip(chosen, results, strict=True))
    ordered = [_detectable_only_with_seeds(tests[number], pair) for number, pair in enumerate(pairs)]
    p_values = adjusted([test.p for test in ordered] + [one.p for one in correlations], weights)
    evenness = tuple(one.adjusted_to(p) for one, p in zip(correlations, p_values[len(pairs) :], strict=True))
    return pairs, ordered, p_values[: len(pairs)], evenness


def _detectable_only_with_seeds(test: PairedTest, pair: _Pair) -> PairedTest:
    claimable = test.seeds >= MIN_SEEDS or (pair.first.from_files and pair.second.from_files)
    return test if claimable else replace(test, detectable=float("inf"))


def _evenness(arms: Sequence[Arm], stratum: str) -> MaskEvenness | None:
    """Correlate within one stratum: labels and encoders move scores too."""
    inside = [arm for arm in arms if arm.stratum == stratum and arm.mask_statistics]
    return evenness_and_score(
        [arm.columns["mask"] for arm in inside],
        [arm.mask_statistics["card/unevenness"] for arm in inside],
        [arm.mean for arm in inside],
        stratum=stratum,
    )


def _differences(first: Arm, second: Arm) -> Scores:
    """Pair two arms by seed and patient; those that either lacks are left out."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    patients = [who for who in first.patients if who in set(second.patients)]
    if not seeds or not patients:
        return np.empty((0, 0))
    chosen = [
        arm.scores[np.ix_([arm.seeds.index(s) for s in seeds], [arm.patients.index(p) for p in patients])]
        for arm in (first, second)
    ]
    found = chosen[0] - chosen[1]
    whole: Scores = found[:, np.isfinite(found).all(axis=0)]
    return whole
