"""Equality of arms: which settings differ between compared runs beyond what their arms are meant to vary."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from medmim.config.resolve import FileSettings
from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import EQUAL_COST
from medmim.tracking.comparison.runs import RunScores

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
_SAME_STEPS = 1.05  # runs whose steps differ by more did not train equally long


def fingerprint(run: RunScores) -> str:
    """Return a text that is equal for runs of equal settings, whatever their seed and fold."""
    return json.dumps([_shared(FinetuneSettings, run.settings), run.arm], sort_keys=True) + json.dumps(
        _shared(PretrainSettings, run.pretraining), sort_keys=True
    )


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
        arms: dict[str, list[str]] = {}
        for arm, values in known:
            arms.setdefault(values.get(key, "–"), []).append(arm)
        if len(arms) > 1:
            said = "; ".join(
                f"{value} ({', '.join(dict.fromkeys(who))})" for value, who in sorted(arms.items())
            )
            found.append(f"{stage} {key}: {said}")
    return tuple(found)


def _shared(kind: type[FileSettings], values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the settings that equal arms share, as text, with the names and defaults of this version."""
    if values is None:
        return {}
    try:
        whole = kind.model_validate(dict(values)).model_dump(mode="json")
    except ValidationError:  # of another version: compared as they were written
        whole = dict(values)
    left_out = _REPETITION | _MACHINE
    return {key: json.dumps(value, sort_keys=True) for key, value in whole.items() if key not in left_out}
