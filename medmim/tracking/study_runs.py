"""A study in MLflow: a run for the study, one for each arm below it, and its trainings below those."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow.entities import Param, Run

from medmim.config.study import DIGEST, SCRATCH, StudySettings, StudyTrial, arm_title
from medmim.tracking.comparison.runs import RunScores, read_run
from medmim.tracking.mlflow_store import Store
from medmim.tracking.run_recorder import RunRecorder

PARENT = "mlflow.parentRunId"
_PLAN = "cells.json"  # artifact of the study's own run
_SETTINGS = "study.json"
_TRAININGS = ("pretraining", "cell")  # tag `role`; a cell is the fine-tuning of a trial


@dataclass(frozen=True)
class PlannedTraining:
    """A training that a study asks for.

    Attributes:
        digest: of the training.
        arm, stratum: of the trial that it ends; empty for a pretraining.
    """

    digest: str
    arm: str = ""
    stratum: str = ""


class StudyRuns:
    """The runs of one study, found by their tags.

    Args:
        store: the local store.
        name: of the study and its experiment.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self._known = {
            (run.data.tags["role"], run.data.tags.get("arm", ""), run.data.tags.get("stratum", "")): run
            for run in reversed(store.runs(study=name))
            if run.data.tags.get("role") in ("study", "arm")
        }

    def start(
        self, settings: StudySettings, plan: Sequence[PlannedTraining], dataset: Mapping[str, str]
    ) -> RunRecorder:
        """Start or continue the study's own run and record what it asks for.

        Args:
            settings: of the study.
            plan: its trainings; a later start may ask for others.
            dataset: tags of the dataset.
        """
        root = self._open(("study", "", ""), self.name, dict(dataset))
        root.text(_SETTINGS, json.dumps(_shareable(settings), indent=2, sort_keys=True))
        rows = [{"digest": one.digest, "arm": one.arm, "stratum": one.stratum} for one in plan]
        root.text(_PLAN, json.dumps(rows, indent=1))
        return root

    def arm(self, trial: StudyTrial, *, root: str) -> RunRecorder:
        """Start or continue the run of a trial's arm; its parameters are the columns that the UI compares."""
        place = ("arm", trial.arm, trial.stratum)
        known = place in self._known
        tags = {"arm": trial.arm, "stratum": trial.stratum, PARENT: root}
        recorder = self._open(place, arm_title(trial.arm, trial.stratum), tags)
        if not known:
            params = [Param(key, str(value)) for key, value in _columns(trial).items()]
            self.store.client.log_batch(recorder.run_id, params=params)
        return recorder

    def _open(self, place: tuple[str, str, str], name: str, tags: Mapping[str, str]) -> RunRecorder:
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
        runs: those that its plan asks for.
        missing: how many the plan asks for that are not finished.
        earlier: finished fine-tunings of an earlier plan of this name.
        varied: settings of pretraining by which the study's own arms differ.
    """

    runs: tuple[RunScores, ...]
    missing: int = 0
    earlier: int = 0
    varied: tuple[str, ...] = ()


def runs_of_study(store: Store, study: str) -> list[Run]:
    """Return all runs of a study, newest first, with those that another study had trained for it before."""
    own = store.runs(study=study)
    ids = {run.info.run_id for run in own}
    there = {run.data.tags.get(DIGEST) for run in own if run.info.status == "FINISHED"}
    planned = {digest: one for digest, one in _plan(store, own).items() if digest not in there}
    return [*own, *(run for run in _finished(store, planned).values() if run.info.run_id not in ids)]


def finished_trials(store: Store, study: str) -> FinishedTrials:
    """Return the finished fine-tunings that a study asks for; all of the study where it has no plan."""
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
    """Return a run under the arm and stratum that a study now has for it."""
    return replace(run, arm=place.arm, tags={**run.tags, "arm": place.arm, "stratum": place.stratum})


def _plan(store: Store, runs: Sequence[Run]) -> dict[str, PlannedTraining]:
    """Return what is asked for by digest; a study that two sites ran has two plans, and both count."""
    rows = [row for root in _roots(runs) for row in json.loads(store.read_text(root, _PLAN, default="[]"))]
    return {row["digest"]: PlannedTraining(**row) for row in rows}


def _varied(store: Store, runs: Sequence[Run]) -> tuple[str, ...]:
    settings = [json.loads(store.read_text(root, _SETTINGS, default="{}")) for root in _roots(runs)]
    return tuple(sorted({key for one in settings for arm in one.get("arms", ()) for key in arm}))


def _roots(runs: Sequence[Run]) -> list[Run]:
    return [run for run in reversed(runs) if run.data.tags.get("role") == "study"]


def _finished(store: Store, planned: Collection[str]) -> dict[str, Run]:
    """Return the newest finished run of each planned training, in the order of the plan."""
    found: dict[str, Run] = {}
    for run in store.runs() if planned else ():
        digest = run.data.tags.get(DIGEST, "")
        if run.info.status == "FINISHED" and digest in planned:
            found.setdefault(digest, run)
    return {digest: found[digest] for digest in planned if digest in found}


def _columns(trial: StudyTrial) -> dict[str, Any]:
    """Return what arms differ in; the same columns for all, so that the UI draws one chart of them."""
    tune, pre = trial.finetune, trial.pretrain
    shared = {"encoder": tune.encoder or "default", "label_fraction": tune.label_fraction or 1.0}
    if pre is None:
        return {"method": SCRATCH, "mask": "none", "ratio": 0.0, **shared}
    return {"method": pre.method, "mask": pre.mask, "ratio": pre.ratio, **shared}


def _shareable(study: StudySettings) -> dict[str, Any]:
    """Return the settings of a study without any path."""
    settings = study.model_dump(mode="json", exclude={"data"})
    for stage in ("pretrain", "finetune"):
        settings[stage] = {k: value for k, value in settings[stage].items() if k not in ("data", "init")}
    return settings
