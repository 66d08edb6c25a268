"""Equality of arms: what differs between compared runs beyond what their arms are meant to vary."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import EQUAL_COST, SCRATCH
from medmim.config.yaml_settings import FileSettings
from medmim.tracking.comparison.runs import RunScores
from medmim.training.evaluation.resampled_metrics import measure_of, pseudo_values

# settings of an arm's own pretraining, and of repetitions
PRETRAINING_OF_AN_ARM = frozenset({"method", "method_options", "mask", "mask_options", "ratio"})
_REPETITION = {"seed", "fold", "init", "init_map", "data", "more_data", "experiment", "min_loaded_fraction"}
_MACHINE = {
    "machine",
    "workers",
    "cache_gb",
    "cache_disk_gb",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
}
_TRUTH = ("label", "class", "labels", "value", "truth")  # parts of a row that no model changes
_SAME_SCORE = 1e-3
_SAME_STEPS = 1.05  # runs whose steps differ by more did not train equally long


def fingerprint(run: RunScores) -> str:
    """Return a text that is equal for runs of equal settings, whatever their seed and fold."""
    origin = run.tags.get("lineage", "") if run.pretraining is None else ""  # files of one name differ
    stages = [_shared(FinetuneSettings, run.settings), _shared(PretrainSettings, run.pretraining)]
    return json.dumps([*stages, run.arm, origin], sort_keys=True)


def differences(runs: Sequence[RunScores], *, varied: Collection[str] = ()) -> tuple[str, ...]:
    """Return one sentence for everything that forbids a claim about runs of one stratum.

    These are settings, the user's own code, precisions that the machines chose, versions of medmim or the
    dataset, data of pretraining and test cases that differ, seeds that were run twice with different scores
    or that no training had, and scores that do not follow from the cases.

    Args:
        runs: of one stratum.
        varied: further settings of pretraining that the study varies on purpose.
    """
    versions = ((run.arm, run.tags["medmim_version"]) for run in runs if "medmim_version" in run.tags)
    scores = {run.run_id: _score(run) for run in runs}
    sources = ((run.arm, _short(run.pretraining_data)) for run in runs if run.pretraining_data)
    precisions = ((run.arm, run.tags["precision"]) for run in runs if _chose_precision(run))
    datasets = ((run.arm, run.tags["dataset_hash"][:8]) for run in runs if "dataset_hash" in run.tags)
    return (
        *settings_differences(runs, varied=varied),
        *_code_differences(runs),
        *_unequal("version of medmim", versions),
        *_unequal("precision of fine-tuning", precisions),
        *_unequal("pretraining data", sources),
        *_unequal("version of the dataset", datasets),
        *_case_differences(runs),
        *_repeated_seeds(runs, scores),
        *_false_seeds(runs),
        *_contradicting_scores(runs, scores),
    )


def _chose_precision(run: RunScores) -> bool:
    return "precision" in run.tags and (run.settings or {}).get("precision", "auto") == "auto"


def _code_differences(runs: Sequence[RunScores]) -> list[str]:
    """Return a sentence for every module of the user's own code that differs between runs that use it."""
    versions: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for one in (one for text in run.code for stage in text.split("; then ") for one in stage.split(", ")):
            module, _, digest = one.partition(" ")
            versions.setdefault(module, []).append((run.arm, digest))
    return [line for name, found in sorted(versions.items()) for line in _unequal(f"own code {name}", found)]


def settings_differences(runs: Sequence[RunScores], *, varied: Collection[str] = ()) -> tuple[str, ...]:
    """Return a sentence for every setting in which runs of one stratum differ and should not."""
    own = PRETRAINING_OF_AN_ARM | set(varied)
    tuned = [(run, _compared_settings(run, runs)) for run in runs]
    found = _of_stage("fine-tuning", FinetuneSettings, tuned, frozenset())
    pretrained = [(run, run.pretraining) for run in runs if run.pretraining != {}]
    if len({run.arm for run, _ in pretrained}) < 2:  # what the pretraining of one arm is, the arm is
        pretrained = [(run, values) for run, values in pretrained if values is not None]
    return (*found, *_of_stage("pretraining", PretrainSettings, pretrained, own))


def differing_settings(runs: Sequence[RunScores]) -> dict[str, dict[str, str]]:
    """Return the settings by which runs of one arm differ: run id → setting → value."""
    parts = [
        {
            run.run_id: {f"{name}{key}": value for key, value in _shared(kind, values).items()}
            for run, values in chosen
        }
        for name, kind, chosen in (
            ("", FinetuneSettings, [(run, run.settings) for run in runs]),
            ("pretraining ", PretrainSettings, [(run, run.pretraining) for run in runs]),
        )
    ]
    whole = {run.run_id: {**parts[0][run.run_id], **parts[1][run.run_id]} for run in runs}
    keys = sorted({key for values in whole.values() for key in values})
    unequal = [key for key in keys if len({values.get(key, "–") for values in whole.values()}) > 1]
    return {run_id: {key: values.get(key, "–") for key in unequal} for run_id, values in whole.items()}


def unequal_steps(runs: Sequence[RunScores]) -> tuple[str, ...]:
    """Return a warning where a budget in minutes gave arms different numbers of steps."""
    steps = [int(run.tags["steps"]) for run in runs if run.tags.get("steps") and run.arm != EQUAL_COST]
    if not steps or max(steps) <= _SAME_STEPS * min(steps):
        return ()
    return (
        f"the runs took {min(steps)} to {max(steps)} steps: a budget in minutes favours the arm that had the "
        "machine to itself; use --steps",
    )


def _compared_settings(run: RunScores, runs: Sequence[RunScores]) -> Mapping[str, Any] | None:
    """Return the settings of a fine-tuning; the control of equal cost without the minutes of pretraining."""
    if run.arm != EQUAL_COST or run.settings is None:
        return run.settings
    pretrained = next((one.pretraining["minutes"] for one in runs if one.pretraining), 0.0) or 0.0
    return {**run.settings, "minutes": round(float(run.settings["minutes"]) - float(pretrained), 9)}


def _of_stage(
    stage: str,
    kind: type[FileSettings],
    runs: Sequence[tuple[RunScores, Mapping[str, Any] | None]],
    own: Collection[str],
) -> tuple[str, ...]:
    found = [
        f"{stage} settings of run {run.run_id[:8]} ({run.arm}) are not recorded"
        for run, values in runs
        if values is None
    ]
    known = [(run.arm, _shared(kind, values)) for run, values in runs if values is not None]
    for key in sorted({key for _, values in known for key in values} - set(own)):
        found += _unequal(f"{stage} {key}", ((arm, values.get(key, "–")) for arm, values in known))
    return tuple(found)


def _unequal(name: str, values: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence with the arms of each value if there are several values."""
    arms: dict[str, list[str]] = {}
    for arm, value in values:
        arms.setdefault(value, []).append(arm)
    listed = (f"{value} ({', '.join(dict.fromkeys(who))})" for value, who in sorted(arms.items()))
    return [f"{name}: {'; '.join(listed)}"] if len(arms) > 1 else []


def _short(hashes: str) -> str:
    return "+".join(one[:8] for one in sorted(hashes.split(",")))


def _case_differences(runs: Sequence[RunScores]) -> list[str]:
    """Return a sentence for each test split whose runs were tested on other cases, or with other labels."""
    tested: dict[str, dict[str, list[RunScores]]] = {}
    for run in runs:
        if not run.from_files:
            rows = [[row.get("case", row["patient"]), *map(row.get, _TRUTH)] for row in run.cases]
            cases = "\n".join(sorted(json.dumps(row, sort_keys=True) for row in rows))
            tested.setdefault(run.tags.get("split_hash", ""), {}).setdefault(cases, []).append(run)
    found = []
    for groups in tested.values():
        if len(groups) > 1:
            counts = (
                f"{len(who[0].cases)} rows ({', '.join(sorted({run.arm for run in who}))})"
                for who in groups.values()
            )
            found.append(f"test cases or their labels, of one split: {'; '.join(counts)}")
    return found


def _repeated_seeds(runs: Sequence[RunScores], scores: Mapping[str, float]) -> list[str]:
    """Return a sentence for each seed of an arm that was run several times with different scores."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for run in runs:
        if not run.from_files:
            place = (fingerprint(run), run.arm, str(run.seed), run.tags.get("split_hash", ""))
            groups.setdefault(place, []).append(scores[run.run_id])
    return [
        f"seed {seed} of {arm} was run {len(found)} times, with scores from {min(found):.3f} to "
        f"{max(found):.3f}: name the runs to compare, or delete the others"
        for (_, arm, seed, _), found in groups.items()
        if max(found) - min(found) > _SAME_SCORE
    ]


def _false_seeds(runs: Sequence[RunScores]) -> list[str]:
    """Return a sentence for each seed that a run was not trained with, and for copies of one run as seeds."""
    found = [
        f"run {run.run_id[:8]} ({run.arm}) is marked as seed {run.seed}, but was trained with seed {trained}"
        for run in runs
        if (trained := (run.settings or {}).get("seed", run.seed)) != run.seed
    ]
    alike: dict[tuple[str, ...], list[RunScores]] = {}
    for run in runs:
        if not run.from_files:
            rows = (json.dumps(row, sort_keys=True) for row in run.cases)
            alike.setdefault((run.arm, run.tags.get("split_hash", ""), *rows), []).append(run)
    for same in alike.values():
        seeds = sorted({run.seed for run in same})
        # a network that finds nothing scores 0 or 1 with any seed
        if len(seeds) > 1 and any(0 < score < 1 for score in pseudo_values(same[0].cases).values()):
            found.append(
                f"seeds {', '.join(map(str, seeds))} of {same[0].arm} have equal scores in every case: one "
                "training cannot count as several seeds"
            )
    return found


def _contradicting_scores(runs: Sequence[RunScores], scores: Mapping[str, float]) -> list[str]:
    """Return a sentence for each run whose cases give another score than was recorded after its test."""
    return [
        f"the cases of run {run.run_id[:8]} ({run.arm}) give {scores[run.run_id]:.4f}, but {recorded:.4f} "
        "was recorded after its test: its files were changed"
        for run in runs
        for recorded in {round(value, 4) for value in run.recorded}
        if abs(recorded - scores[run.run_id]) > _SAME_SCORE
    ]


def _score(run: RunScores) -> float:
    measure = measure_of(run.cases)
    return measure.value(np.ones(len(measure.patients)))


def _shared(kind: type[FileSettings], values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the settings that equal arms share, as text, with the names and defaults of this version."""
    if values is None:
        return {}
    try:
        whole = kind.model_validate(dict(values)).model_dump(mode="json")
    except ValidationError:  # of another version: compared as they were written
        whole = dict(values)
    left_out = _REPETITION | _MACHINE
    if kind is PretrainSettings:  # a pretraining that continues another one is another arm
        left_out, whole["init"] = left_out - {"init"}, whole.get("init") or SCRATCH
    return {key: json.dumps(value, sort_keys=True) for key, value in whole.items() if key not in left_out}
