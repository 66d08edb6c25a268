"""Runs of a study in MLflow: a run of the study, child runs for its arms, and their trainings below."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlflow.entities import Run
from pydantic import BaseModel, TypeAdapter, ValidationError

from medmim.config.study import DIGEST, SCRATCH, StudySettings, StudyTrial, arm_title
from medmim.errors import RunError
from medmim.tracking.comparison.runs import RunScores, read_run
from medmim.tracking.mlflow_recorder import MlflowRecorder
from medmim.tracking.mlflow_store import Store
from medmim.tracking.ui_views import show_arms

PARENT = "mlflow.parentRunId"
_PLAN = "cells.json"  # artifact of the run of the study
_SETTINGS = "study.json"
Recorded = TypeVar("Recorded")


class _Arms(BaseModel):
    """The part of a study's settings that is read again."""

    arms: list[dict[str, Any]] = []


@dataclass(frozen=True)
class PlannedTraining:
    """A training in the plan of a study.

    Attributes:
        arm, stratum: of the trial that the fine-tuning belongs to; empty for a pretraining.
    """

    digest: str
    arm: str = ""
    stratum: str = ""


class StudyRuns:
    """The runs of one study, found by their tags."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self._known = {
            (run.data.tags["role"], run.data.tags.get("arm", ""), run.data.tags.get("stratum", "")): run
            for role in ("study", "arm")
            for run in reversed(store.runs(study=name, role=role))
        }

    def start(
        self, settings: StudySettings, plan: Sequence[PlannedTraining], dataset: Mapping[str, str]
    ) -> MlflowRecorder:
        """Start or resume the run of the study and record its settings and plan, which may have changed."""
        root = self._open(("study", "", ""), self.name, dict(dataset))
        show_arms(self.store.client, self.store.experiment(self.name))
        root.text(_SETTINGS, json.dumps(_shareable(settings), indent=2, sort_keys=True))
        rows = [{"digest": one.digest, "arm": one.arm, "stratum": one.stratum} for one in plan]
        root.text(_PLAN, json.dumps(rows, indent=1))
        return root

    def arm(self, trial: StudyTrial, *, root: str) -> MlflowRecorder:
        """Start or resume the run of a trial's arm; the UI compares arms by its parameters."""
        place = ("arm", trial.arm, trial.stratum)
        known = place in self._known
        tags = {"arm": trial.arm, "stratum": trial.stratum, PARENT: root}
        recorder = self._open(place, arm_title(trial.arm, trial.stratum), tags)
        if not known:
            recorder.params(_columns(trial))
        return recorder

    def _open(self, place: tuple[str, str, str], name: str, tags: Mapping[str, str]) -> MlflowRecorder:
        if place in self._known:
            return self.store.resume(self._known[place].info.run_id)
        recorder = self.store.begin(
            experiment=self.name, name=name, tags={**tags, "study": self.name, "role": place[0]}
        )
        self._known[place] = self.store.run(recorder.run_id)
        return recorder


@dataclass(frozen=True)
class FinishedTrials:
    """The finished fine-tunings of a study.

    Attributes:
        runs: finished fine-tunings that are in the current plan.
        missing: number of planned fine-tunings that are not finished.
        earlier: number of finished fine-tunings that belong only to an earlier plan of this study.
        varied: pretraining settings that differ between the arms listed under `arms`.
    """

    runs: tuple[RunScores, ...]
    missing: int = 0
    earlier: int = 0
    varied: tuple[str, ...] = ()


def runs_of_study(store: Store, study: str) -> list[Run]:
    """Return all runs of a study, newest first, then runs of other studies that the study reuses."""
    own = store.runs(study=study)
    ids = {run.info.run_id for run in own}
    there = {run.data.tags.get(DIGEST) for run in own if run.info.status == "FINISHED"}
    planned = {digest: one for digest, one in _plan(store, own).items() if digest not in there}
    return [*own, *(run for run in _finished(store, planned).values() if run.info.run_id not in ids)]


def finished_trials(store: Store, study: str) -> FinishedTrials:
    """Return the finished fine-tunings in the plan of a study, or all of them if no plan is recorded."""
    own = store.runs(study=study)
    tuned = [run for run in own if run.data.tags.get("role") == "cell" and run.info.status == "FINISHED"]
    planned = _plan(store, own)
    if not planned:
        return FinishedTrials(tuple(read_run(store, run) for run in reversed(tuned)))
    asked = {digest: one for digest, one in planned.items() if one.arm}
    finished = _finished(store, asked)
    return FinishedTrials(
        tuple(placed(read_run(store, run), asked[digest]) for digest, run in finished.items()),
        missing=len(asked) - len(finished),
        earlier=sum(run.data.tags.get(DIGEST) not in planned for run in tuned),
        varied=_varied(store, own),
    )


def placed(run: RunScores, place: PlannedTraining | StudyTrial) -> RunScores:
    """Return a run with the arm and stratum that the current plan assigns to it."""
    return replace(run, arm=place.arm, tags={**run.tags, "arm": place.arm, "stratum": place.stratum})


def _plan(store: Store, runs: Sequence[Run]) -> dict[str, PlannedTraining]:
    """Return planned trainings by digest, merging the plans of all sites that ran the study."""
    plans = [
        _recorded(store, root, _PLAN, TypeAdapter(list[PlannedTraining]).validate_json, "[]")
        for root in _roots(runs)
    ]
    return {one.digest: one for plan in plans for one in plan}


def _varied(store: Store, runs: Sequence[Run]) -> tuple[str, ...]:
    settings = [_recorded(store, root, _SETTINGS, _Arms.model_validate_json, "{}") for root in _roots(runs)]
    return tuple(sorted({key for one in settings for arm in one.arms for key in arm}))


def _recorded(store: Store, root: Run, name: str, parse: Callable[[str], Recorded], default: str) -> Recorded:
    """Return an artifact of the run of a study, which may come from a pack."""
    try:
        return parse(store.read_text(root, name, default=default))
    except ValidationError as error:
        raise RunError(
            f"run {root.info.run_id}: its artifact '{name}' is damaged: run the study again or delete it"
        ) from error


def _roots(runs: Sequence[Run]) -> list[Run]:
    return [run for run in reversed(runs) if run.data.tags.get("role") == "study"]


def _finished(store: Store, planned: Collection[str]) -> dict[str, Run]:
    """Return the newest finished run of each planned training, in the order of the plan."""
    found: dict[str, Run] = {}
    for run in store.tagged(DIGEST, planned) if planned else ():
        if run.info.status == "FINISHED":
            found.setdefault(run.data.tags[DIGEST], run)
    return {digest: found[digest] for digest in planned if digest in found}


def _columns(trial: StudyTrial) -> dict[str, Any]:
    """Return the parameters of an arm, with the same keys for all arms, for the charts of the UI."""
    tune, pre = trial.finetune, trial.pretrain
    shared = {"encoder": tune.encoder or "default", "label_fraction": tune.label_fraction or 1.0}
    if pre is None:
        return {"method": SCRATCH, "mask": "none", "ratio": 0.0, **shared}
    return {"method": pre.method, "mask": pre.mask, "ratio": pre.ratio, **shared}


def _shareable(study: StudySettings) -> dict[str, Any]:
    """Return the settings of a study without file paths."""
    settings = study.model_dump(mode="json", exclude={"data"})
    for stage in ("pretrain", "finetune"):
        settings[stage] = {k: value for k, value in settings[stage].items() if k not in ("data", "init")}
    return settings
