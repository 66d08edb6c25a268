"""A study in MLflow: an experiment; a run for the study, one an arm below it, its trainings below that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.entities import Param, Run

from medmim.config.study import SCRATCH, StudySettings, StudyTrial, arm_title
from medmim.tracking.mlflow_store import RunRecorder, Store

PARENT = "mlflow.parentRunId"


class StudyRuns:
    """The runs of one study, found again by their tags.

    Args:
        store: the local store.
        name: of the study and its experiment.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self._places = {
            (run.data.tags["role"], run.data.tags.get("arm", ""), run.data.tags.get("stratum", "")): run
            for run in reversed(store.runs(study=name))
            if run.data.tags.get("role") in ("study", "arm")
        }

    def root(self, dataset: Mapping[str, str]) -> RunRecorder:
        """Begin or continue the study's own run; `dataset` are tags of what it learns from."""
        return self._open(("study", "", ""), self.name, dict(dataset))

    def arm(self, cell: StudyTrial, *, root: str) -> RunRecorder:
        """Begin or continue the run of a cell's arm; its parameters are the columns that the UI compares."""
        place = ("arm", cell.arm, cell.stratum)
        known = place in self._places
        tags = {"arm": cell.arm, "stratum": cell.stratum, PARENT: root}
        recorder = self._open(place, arm_title(cell.arm, cell.stratum), tags)
        if not known:
            params = [Param(key, str(value)) for key, value in _columns(cell).items()]
            self.store.client.log_batch(recorder.run_id, params=params)
        return recorder

    def trainings(self) -> list[Run]:
        """Return the pretraining and fine-tuning runs, newest first."""
        runs = self.store.runs(study=self.name)
        return [run for run in runs if run.data.tags.get("role") in ("pretraining", "cell")]

    def _open(self, place: tuple[str, str, str], name: str, tags: Mapping[str, str]) -> RunRecorder:
        if place in self._places:
            return self.store.resume(self._places[place].info.run_id)
        words = {**tags, "study": self.name, "role": place[0]}
        recorder = self.store.begin(experiment=self.name, name=name, tags=words)
        self._places[place] = self.store.run(recorder.run_id)
        return recorder


def _columns(cell: StudyTrial) -> dict[str, Any]:
    """Return what tells arms apart; the same columns for all, so that the UI draws one chart of them."""
    tune, pre = cell.finetune, cell.pretrain
    shared = {"encoder": tune.encoder or "default", "label_fraction": tune.label_fraction or 1.0}
    if pre is None:
        return {"method": SCRATCH, "mask": "none", "ratio": 0.0, **shared}
    return {"method": pre.method, "mask": pre.mask, "ratio": pre.ratio, **shared}


def columns_of(study: StudySettings) -> dict[str, Any]:
    """Return the settings of a study without where anything lies."""
    words = study.model_dump(mode="json", exclude={"data"})
    for stage in ("pretrain", "finetune"):
        words[stage] = {key: value for key, value in words[stage].items() if key not in ("data", "init")}
    return words
