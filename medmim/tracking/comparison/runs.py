"""Runs side by side: arms, paired differences against the control, and a sentence for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from mlflow.entities import Run

from medmim.errors import RunError
from medmim.tracking.mlflow_store import Store
from medmim.tracking.statistics.bootstrap import Estimate, estimate, estimate_statistic, verdict
from medmim.training.evaluation.patient_scores import Measure, average, measure_of, metric_of

CASES = "cases.jsonl"
SCORES = "scores.jsonl"
CONTROL = "scratch"
TITLES = {"ap50": "AP50", "dice": "Dice", "macro_f1": "macro-F1"}
_SAME = ("dataset_hash", "split_hash", "task", "labelled")
_SAME_STEPS = 1.05  # runs whose steps differ by more are not called equal
_ALIKE = ("encoder", "dims", "size", "batch_size", "lr", "budget")


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning run.

    Attributes:
        run_id: of the run.
        arm: what distinguishes it: `scratch`, or method, mask and ratio of its pretraining.
        tags: of the run.
        cases: rows of scores, one a case and class.
        scores: every number of its test with its interval; empty for runs that were made before there were.
    """

    run_id: str
    arm: str
    tags: Mapping[str, str]
    cases: tuple[Mapping[str, Any], ...]
    scores: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Arm:
    """All runs of one kind.

    Attributes:
        name: as above.
        runs: their ids.
        seeds: their seeds.
        metric: dice, macro_f1 or ap50; a key of `MEASURES`.
        score: its value over patients, averaged over seeds: Dice as a mean, the others of all cases together.
        by_label: the same for each class.
        hd95_mm: 95th percentile surface distance; None when no case has one.
        patients: patient → its mean Dice, share of right cases, or AP50.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    score: Estimate
    by_label: Mapping[str, float]
    hd95_mm: float | None
    patients: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """Two arms compared patient by patient; the difference is first minus second."""

    first: str
    second: str
    difference: Estimate
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """What `medmim compare` says; `warnings` name what was not held equal.

    `scores` has all numbers of each run's test, with intervals over its patients, by run id.
    """

    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]
    scores: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[str]:
        """The sentences."""
        return [pair.verdict for pair in self.pairs]

    def as_json(self) -> dict[str, Any]:
        """Return arms, pairs, verdicts and warnings for `--json`."""
        return {
            "arms": [_public(arm) for arm in self.arms],
            "pairs": [asdict(pair) for pair in self.pairs],
            "verdicts": self.verdicts,
            "warnings": list(self.warnings),
            "scores": {run: list(rows) for run, rows in self.scores.items()},
        }


def find_runs(store: Store, run_ids: Sequence[str]) -> list[Finetuned]:
    """Return the runs named, or all that are comparable with the newest finished fine-tuning run.

    Raises:
        RunError: if there are none, or a named one did not finish or was tested on other patients.
    """
    if run_ids:
        chosen = [store.run(run_id) for run_id in run_ids]
    else:
        chosen = [run for run in store.runs(stage="finetune") if run.info.status == "FINISHED"]
        chosen = [run for run in chosen if _key(run) == _key(chosen[0])]
        chosen = _newest_of_each_seed(chosen)
    if not chosen:
        raise RunError("no finished fine-tuning run to compare: run `medmim finetune segment` first")
    for run in chosen:
        if run.data.tags.get("stage") != "finetune":
            raise RunError(
                f"run {run.info.run_id} is no fine-tuning run: compare takes those of `medmim finetune`"
            )
        if _tested(run) != _tested(chosen[0]):
            raise RunError(
                f"run {run.info.run_id} was tested on other patients than {chosen[0].info.run_id}: "
                "compare runs of one dataset, split and fold"
            )
    return [read_run(store, run) for run in chosen]


def compare(runs: Sequence[Finetuned]) -> Comparison:
    """Compare arms on the patients that both were tested on; the control is `scratch`, or the first arm."""
    names = sorted({run.arm for run in runs}, key=lambda name: (name != CONTROL, name))
    grouped = {name: [run for run in runs if run.arm == name] for name in names}
    measures = {name: average([measure_of(run.cases) for run in some]) for name, some in grouped.items()}
    arms = tuple(_arm(name, some, measures[name]) for name, some in grouped.items())
    pairs = []
    for arm in arms[1:]:
        difference = _difference(measures[arm.name], measures[arms[0].name])
        sentence = verdict(arm.name, arms[0].name, difference, metric=TITLES[arm.metric])
        pairs.append(Pair(arm.name, arms[0].name, difference, sentence))
    scores = {run.run_id: run.scores for run in runs}
    return Comparison(arms, tuple(pairs), tuple(_warnings(runs, arms)), scores)


def read_run(store: Store, run: Run) -> Finetuned:
    """Return a finished fine-tuning run with the scores of its cases."""
    cases, scores = (
        tuple(json.loads(line) for line in text.splitlines())
        for text in (store.read_text(run, CASES), store.read_text(run, SCORES, default=""))
    )
    return Finetuned(run.info.run_id, run.data.tags["arm"], dict(run.data.tags), cases, scores)


def _key(run: Run) -> tuple[str, ...]:
    return tuple(run.data.tags.get(key, "") for key in _SAME)


def _tested(run: Run) -> tuple[str, ...]:
    return tuple(run.data.tags.get(key, "") for key in ("dataset_hash", "split_hash", "task"))


def _newest_of_each_seed(runs: Sequence[Run]) -> list[Run]:
    newest: dict[tuple[str, str], Run] = {}
    for run in runs:  # newest first
        newest.setdefault((run.data.tags["arm"], run.data.tags["seed"]), run)
    return list(newest.values())


def _arm(name: str, runs: Sequence[Finetuned], measure: Measure) -> Arm:
    rows = [row for run in runs for row in run.cases]
    distances = _by_patient(rows, "hd95_mm")
    everyone = np.ones(len(measure.patients))
    return Arm(
        name=name,
        runs=tuple(run.run_id for run in runs),
        seeds=tuple(sorted({int(run.tags["seed"]) for run in runs})),
        metric=metric_of(rows),
        score=_score(measure),
        by_label={label: v for label, v in measure.by_class(everyone).items() if np.isfinite(v)},
        hd95_mm=float(np.mean(list(distances.values()))) if distances else None,
        patients={w: float(v) for w, v in zip(measure.patients, measure.each, strict=True) if np.isfinite(v)},
    )


def _score(measure: Measure) -> Estimate:
    if measure.is_mean:
        return estimate(measure.each[np.isfinite(measure.each)].tolist())
    return estimate_statistic(measure.value, len(measure.patients))


def _difference(first: Measure, second: Measure) -> Estimate:
    """Return first minus second over the patients that both have, drawn together."""
    shared = sorted(set(first.patients) & set(second.patients))
    places = [np.array([one.patients.index(who) for who in shared], dtype=int) for one in (first, second)]
    if first.is_mean:
        return estimate((first.each[places[0]] - second.each[places[1]]).tolist())

    def value(weights: np.ndarray) -> float:
        both = [np.zeros(len(one.patients)) for one in (first, second)]
        for all_weights, place in zip(both, places, strict=True):
            all_weights[place] = weights
        return first.value(both[0]) - second.value(both[1])

    return estimate_statistic(value, len(shared))


def _public(arm: Arm) -> dict[str, Any]:
    """Return an arm without its patients; the score stands under the metric's own name."""
    said = {key: value for key, value in asdict(arm).items() if key != "patients"}
    said[arm.metric] = said.pop("score")
    said[f"{arm.metric}_by_label"] = said.pop("by_label")
    return said


def _by_patient(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Average over everything that one patient has: cases, classes, seeds."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key) is not None:
            values.setdefault(str(row["patient"]), []).append(float(row[key]))
    return {who: float(np.mean(found)) for who, found in sorted(values.items())}


def _warnings(runs: Sequence[Finetuned], arms: Sequence[Arm]) -> list[str]:
    found = []
    for key in (*_ALIKE, "labelled"):
        values = sorted({run.tags.get(key, "") for run in runs})
        if len(values) > 1:
            found.append(f"the runs differ in {key}: {', '.join(values)}")
    steps = [int(run.tags.get("steps", "0")) for run in runs]
    if max(steps) > _SAME_STEPS * min(steps):
        found.append(
            f"the runs took {min(steps)} to {max(steps)} steps: a budget in minutes favours the arm that had "
            "the machine to itself; use --steps"
        )
    if len({arm.seeds for arm in arms}) > 1:
        found.append("the arms were run with different seeds")
    if all(len(arm.seeds) == 1 for arm in arms):
        found.append("one seed an arm: the interval covers patients, not the chance of training")
    if len(arms) == 1:
        found.append(f"only one arm ('{arms[0].name}'): fine-tune from another --init to compare")
    return found
