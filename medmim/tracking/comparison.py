"""Runs side by side: arms, paired differences against the control, and a sentence for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mlflow.entities import Run

from medmim.errors import RunError
from medmim.tracking.statistics import Estimate, estimate, verdict
from medmim.tracking.store import Store

CASES = "cases.jsonl"
CONTROL = "scratch"
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
    """

    run_id: str
    arm: str
    tags: Mapping[str, str]
    cases: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Arm:
    """All runs of one kind.

    Attributes:
        name: as above.
        runs: their ids.
        seeds: their seeds.
        dice: mean over patients, each averaged over seeds, cases and classes.
        dice_by_label: the same for each class.
        hd95_mm: 95th percentile surface distance; None when no case has one.
        patients: patient → its mean Dice.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    dice: Estimate
    dice_by_label: Mapping[str, float]
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
    """What `medmim compare` says; `warnings` name what was not held equal."""

    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]

    @property
    def verdicts(self) -> list[str]:
        """The sentences."""
        return [pair.verdict for pair in self.pairs]

    def as_json(self) -> dict[str, Any]:
        """Return arms, pairs, verdicts and warnings for `--json`."""
        arms = [{key: value for key, value in asdict(arm).items() if key != "patients"} for arm in self.arms]
        return {
            "arms": arms,
            "pairs": [asdict(pair) for pair in self.pairs],
            "verdicts": self.verdicts,
            "warnings": list(self.warnings),
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
    arms = tuple(_arm(name, [run for run in runs if run.arm == name]) for name in names)
    pairs = []
    for arm in arms[1:]:
        shared = sorted(arm.patients.keys() & arms[0].patients.keys())
        difference = estimate([arm.patients[who] - arms[0].patients[who] for who in shared])
        sentence = verdict(arm.name, arms[0].name, difference)
        pairs.append(Pair(arm.name, arms[0].name, difference, sentence))
    return Comparison(arms, tuple(pairs), tuple(_warnings(runs, arms)))


def patient_scores(run: Finetuned) -> dict[str, float]:
    """Return each test patient's score in one run, averaged over its cases and classes."""
    return _by_patient(run.cases, "dice")


def read_run(store: Store, run: Run) -> Finetuned:
    """Return a finished fine-tuning run with the scores of its cases."""
    rows = [json.loads(line) for line in store.read_text(run, CASES).splitlines()]
    return Finetuned(run.info.run_id, run.data.tags["arm"], dict(run.data.tags), tuple(rows))


def _key(run: Run) -> tuple[str, ...]:
    return tuple(run.data.tags.get(key, "") for key in _SAME)


def _tested(run: Run) -> tuple[str, ...]:
    return tuple(run.data.tags.get(key, "") for key in ("dataset_hash", "split_hash", "task"))


def _newest_of_each_seed(runs: Sequence[Run]) -> list[Run]:
    newest: dict[tuple[str, str], Run] = {}
    for run in runs:  # newest first
        newest.setdefault((run.data.tags["arm"], run.data.tags["seed"]), run)
    return list(newest.values())


def _arm(name: str, runs: Sequence[Finetuned]) -> Arm:
    rows = [row for run in runs for row in run.cases]
    labels = sorted({str(row["label"]) for row in rows})
    patients = _by_patient(rows, "dice")
    distances = _by_patient(rows, "hd95_mm")
    by_label = {
        label: float(np.mean(list(_by_patient([r for r in rows if r["label"] == label], "dice").values())))
        for label in labels
    }
    return Arm(
        name=name,
        runs=tuple(run.run_id for run in runs),
        seeds=tuple(sorted({int(run.tags["seed"]) for run in runs})),
        dice=estimate(list(patients.values())),
        dice_by_label=by_label,
        hd95_mm=float(np.mean(list(distances.values()))) if distances else None,
        patients=patients,
    )


def _by_patient(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """Average over everything that one patient has: cases, classes, seeds."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row[key] is not None:
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
