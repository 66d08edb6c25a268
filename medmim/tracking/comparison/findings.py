"""What a study found: every arm with its interval, paired tests against scratch and the best, sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from medmim.config.study import arm_title
from medmim.errors import RunError
from medmim.tracking.comparison.runs import CONTROL, TITLES, Finetuned
from medmim.tracking.statistics.bootstrap import FEWEST_PATIENTS, two_way_interval
from medmim.tracking.statistics.multiple_testing import adjusted, split_alpha
from medmim.tracking.statistics.paired_test import LEVEL, Paired, paired_tests, shared_seed_variance
from medmim.training.evaluation.patient_scores import metric_of, own_scores, pseudo_values

Scores = Float[np.ndarray, "seeds patients"]


@dataclass(frozen=True)
class Variant:
    """One arm of a study.

    Attributes:
        arm: `scratch`, or method, mask and ratio.
        stratum: what it is compared within; empty where the study varies neither encoder nor labels.
        runs: ids of its fine-tuning runs.
        seeds, patients: rows and columns of `scores`.
        scores: what each patient adds to the score, per seed; NaN where a fold was not run.
        own: the score of each patient alone, for pictures.
        mean: over patients of the mean over seeds.
        low, high: 95 % interval over patients and seeds.
        sd: over patients.
        sd_seeds: of the means of seeds; None with one.
    """

    arm: str
    stratum: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    patients: tuple[str, ...]
    scores: Scores
    own: Scores
    mean: float
    low: float
    high: float
    sd: float
    sd_seeds: float | None

    @property
    def title(self) -> str:
        """Its name among all arms of the study."""
        return arm_title(self.arm, self.stratum)

    @property
    def of_patients(self) -> dict[str, float]:
        """Mean over seeds of each patient's own score; those that have none are left out."""
        known = np.isfinite(self.own)
        sums, counts = np.where(known, self.own, 0.0).sum(axis=0), known.sum(axis=0)
        return {who: float(s / n) for who, s, n in zip(self.patients, sums, counts, strict=True) if n}


@dataclass(frozen=True)
class Contrast:
    """Two arms of one stratum; the difference is first minus second.

    Attributes:
        first, second: titles.
        against: `control` or `best`: which question it answers.
        test: numbers.
        p_adjusted: allows for all comparisons of the study.
        claimed: whether that is evidence.
        verdict: the sentence.
    """

    first: str
    second: str
    against: str
    test: Paired
    p_adjusted: float
    claimed: bool
    verdict: str


@dataclass(frozen=True)
class Findings:
    """All of it; `best` names the arm with the highest mean of each stratum."""

    metric: str
    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]
    best: Mapping[str, str]

    @property
    def verdicts(self) -> list[str]:
        """The sentences, those against the control first."""
        return [contrast.verdict for contrast in self.contrasts]

    def against(self, title: str, question: str) -> Contrast | None:
        """Return the contrast of an arm (first) with the control or another, where there is one."""
        for contrast in self.contrasts:
            if contrast.against == question and contrast.first == title:
                return contrast
        return None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        left_out = ("scores", "own", "patients", "runs")
        arms = [
            {key: value for key, value in asdict(one).items() if key not in left_out}
            | {"n_patients": len(one.patients), "n_seeds": len(one.seeds)}
            for one in self.variants
        ]
        contrasts = [_json_contrast(one) for one in self.contrasts]
        return {"metric": self.metric, "arms": arms, "contrasts": contrasts, "best": dict(self.best)}


@dataclass(frozen=True)
class _Pair:
    first: Variant
    second: Variant
    against_control: bool
    differences: Scores


def find(runs: Sequence[Finetuned]) -> Findings:
    """Compare the arms of a study within each stratum.

    Half of the error rate (5 % for the whole study) is spent on "did pretraining help", arms against the
    control; the other half on "which is best". The best is chosen by the very data that it is tested on, so
    all pairs of arms are counted there, though only those with the best are shown.

    Args:
        runs: finished fine-tuning runs, tested on the same patients within a stratum.

    Raises:
        RunError: if none of them has a score.
    """
    runs = scored(runs)
    if not runs:
        raise RunError("no finished cell has a score: expected test patients with something to find; relabel")
    variants, metric = variants_of(runs), TITLES[metric_of(runs[0].cases)]
    pairs, tests, adjusted_p = _tested(variants)
    best = {
        stratum: max((one for one in variants if one.stratum == stratum), key=lambda one: one.mean).title
        for stratum in dict.fromkeys(one.stratum for one in variants)
    }
    contrasts = []
    for pair, tested, p in zip(pairs, tests, adjusted_p, strict=True):
        first, second, test = pair.first, pair.second, tested
        if not pair.against_control:
            if best[first.stratum] not in (first.title, second.title):
                continue
            if second.title == best[first.stratum]:
                first, second, test = second, first, tested.turned()
        claimed = p <= LEVEL and test.patients >= FEWEST_PATIENTS
        sentence = verdict(first.title, second.title, test, metric=metric, claimed=claimed, tests=len(pairs))
        question = "control" if pair.against_control else "best"
        contrasts.append(Contrast(first.title, second.title, question, test, p, claimed, sentence))
    contrasts.sort(key=lambda one: one.against != "control")
    return Findings(metric, variants, tuple(contrasts), best)


def scored(runs: Sequence[Finetuned]) -> list[Finetuned]:
    """Return the runs that have a score: one whose test patients show nothing to find has none."""
    return [run for run in runs if run.cases and pseudo_values(run.cases)]


def variants_of(runs: Sequence[Finetuned]) -> tuple[Variant, ...]:
    """Gather runs by stratum and arm; the control comes first in each stratum."""
    places = sorted(
        {(run.tags.get("stratum", ""), run.arm) for run in runs},
        key=lambda place: (place[0], place[1] != CONTROL, place[1]),
    )
    return tuple(
        _variant([run for run in runs if (run.tags.get("stratum", ""), run.arm) == place], *reversed(place))
        for place in places
    )


def verdict(first: str, second: str, test: Paired, *, metric: str, claimed: bool, tests: int) -> str:
    """Say in one sentence what a paired difference shows, or does not."""
    points = 100 * test.mean
    over = f"{test.patients} patients" + (f" and {test.seeds} seeds" if test.seeds > 1 else ", one seed")
    sentence = (
        f"{first} {'above' if points >= 0 else 'below'} {second} by {abs(points):.1f} points of {metric}, "
        f"interval {100 * test.low:+.1f} … {100 * test.high:+.1f} over {over}: "
    )
    if test.patients < FEWEST_PATIENTS:
        return sentence + f"too few patients to say (at least {FEWEST_PATIENTS} are needed)"
    if claimed:
        return sentence + "evidence of a difference"
    if test.low > 0 or test.high < 0:
        return sentence + f"no evidence of a difference once all {tests} comparisons are counted"
    return sentence + "no evidence of a difference"


def _variant(runs: Sequence[Finetuned], arm: str, stratum: str) -> Variant:
    seeds = tuple(sorted({int(run.tags["seed"]) for run in runs}))
    rows = [seeds.index(int(run.tags["seed"])) for run in runs]
    given = [pseudo_values(run.cases) for run in runs]
    patients = tuple(sorted({who for found in given for who in found}))
    scores, own = [
        _laid_out(rows, values, (len(seeds), patients))
        for values in (given, [own_scores(run.cases) for run in runs])
    ]
    by_patient, by_seed = np.nanmean(scores, axis=0), np.nanmean(scores, axis=1)
    low, high = two_way_interval(scores)
    return Variant(
        arm=arm,
        stratum=stratum,
        runs=tuple(run.run_id for run in runs),
        seeds=seeds,
        patients=patients,
        scores=scores,
        own=own,
        mean=float(by_patient.mean()),
        low=low,
        high=high,
        sd=float(by_patient.std(ddof=1)) if len(patients) > 1 else 0.0,
        sd_seeds=float(by_seed.std(ddof=1)) if len(seeds) > 1 else None,
    )


def _laid_out(
    rows: Sequence[int], values: Sequence[Mapping[str, float]], shape: tuple[int, tuple[str, ...]]
) -> Scores:
    """Return runs' values as (seeds, patients); the folds of a seed share its row."""
    seeds, patients = shape
    found = np.full((seeds, len(patients)), np.nan)
    for row, of_run in zip(rows, values, strict=True):
        for column, who in enumerate(patients):
            found[row, column] = of_run.get(who, found[row, column])
    return found


def _tested(variants: Sequence[Variant]) -> tuple[list[_Pair], list[Paired], list[float]]:
    pairs = [
        _Pair(first, second, second.arm == CONTROL, found)
        for second, first in combinations(variants, 2)
        if first.stratum == second.stratum and (found := _differences(first, second)).shape[1] > 1
    ]
    controls = sum(pair.against_control for pair in pairs)
    for_control, for_best = split_alpha(controls, len(pairs) - controls)
    weights = [for_control if pair.against_control else for_best for pair in pairs]
    tests: dict[int, Paired] = {}
    for stratum in dict.fromkeys(pair.first.stratum for pair in pairs):
        chosen = [number for number, pair in enumerate(pairs) if pair.first.stratum == stratum]
        differences = [pairs[number].differences for number in chosen]
        luck = shared_seed_variance(differences, arms=_repeated([pairs[number] for number in chosen]))
        results = paired_tests(differences, luck, level=LEVEL * min(weights))
        tests |= dict(zip(chosen, results, strict=True))
    ordered = [tests[number] for number in range(len(pairs))]
    return pairs, ordered, adjusted([test.p for test in ordered], weights)


def _repeated(pairs: Sequence[_Pair]) -> int:
    """Return how many arms were repeated with several seeds that another arm has too."""
    several = [pair for pair in pairs if pair.differences.shape[0] > 1]
    return len({arm.title for pair in several for arm in (pair.first, pair.second)})


def _differences(first: Variant, second: Variant) -> Scores:
    """Pair two arms by seed and patient; those that either lacks are left out."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    patients = [who for who in first.patients if who in set(second.patients)]
    if not seeds or not patients:
        return np.empty((0, 0))
    found = _chosen(first, seeds, patients) - _chosen(second, seeds, patients)
    whole: Scores = found[:, np.isfinite(found).all(axis=0)]
    return whole


def _chosen(variant: Variant, seeds: Sequence[int], patients: Sequence[str]) -> Scores:
    rows = [variant.seeds.index(seed) for seed in seeds]
    columns = [variant.patients.index(who) for who in patients]
    return np.array([[variant.scores[row, column] for column in columns] for row in rows])


def _json_contrast(contrast: Contrast) -> dict[str, Any]:
    test = {key: value if np.isfinite(value) else None for key, value in asdict(contrast.test).items()}
    words = {key: value for key, value in asdict(contrast).items() if key != "test"}
    return {**words, **test}
