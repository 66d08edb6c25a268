"""What a study will do and how long it takes: jobs in order, those that are done, hours for the others."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medmim.config.runs import FinetuneSettings, PretrainSettings
from medmim.config.study import DIGEST, SCRATCH, StudyTrial
from medmim.data.dataset.manifest import Dataset, digest_of
from medmim.data.dataset.partition import limit_patients, partition
from medmim.data.loading.disk_cache import PREPARED
from medmim.errors import RunError
from medmim.stages.study.engines import StudyEngine
from medmim.stages.study.training_process import Job
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import budget_for
from medmim.training.tasks.registry import build_task

_APART = {"data", "experiment", "init"}  # settings of a training that its digest does not depend on
_TIMED_STEPS = 21  # losses are logged at steps 1, 11 and 21; the first of two evaluations falls after 11


@dataclass(frozen=True)
class StudyTraining:
    """A job with its place in the study.

    Attributes:
        job: settings; `init` is filled in when the pretraining's run is known.
        needs: digest of the pretraining that it starts from; empty for none.
        cell: the first cell that it belongs to.
    """

    job: Job
    needs: str
    cell: StudyTrial

    @property
    def kind(self) -> str:
        """What trainings take alike long: those of one stage with one encoder."""
        return " ".join(filter(None, (self.job.stage, self.cell.finetune.encoder)))


@dataclass(frozen=True)
class StudyPlan:
    """All jobs of a study.

    Attributes:
        cells: how many.
        tasks: one a training, in order; a pretraining is listed once for all cells that start from it.
        finished: digest → id of the finished run.
        minutes: predicted minutes of each kind of training.
        source: where the prediction comes from.
        width: trainings that run at one time.
    """

    cells: int
    tasks: tuple[StudyTraining, ...]
    finished: Mapping[str, str]
    minutes: Mapping[str, float]
    source: str
    width: int = 1

    @property
    def open(self) -> tuple[StudyTraining, ...]:
        """Tasks not yet done."""
        return tuple(task for task in self.tasks if task.job.digest not in self.finished)

    @property
    def hours(self) -> float:
        """Predicted hours of what is left."""
        return sum(self.minutes.get(task.kind, 0.0) for task in self.open) / 60 / self.width

    def lines(self) -> list[str]:
        """Return the plan for people."""
        stages = [task.job.stage for task in self.tasks]
        counts = f"{stages.count('pretrain')} pretrainings, {stages.count('finetune')} fine-tunings"
        done = len(self.tasks) - len(self.open)
        each = ", ".join(f"{kind} {minutes:.1f}" for kind, minutes in sorted(self.minutes.items()))
        at_once = f", {self.width} at one time" if self.width > 1 else ""
        return [
            f"{self.cells} cells: {counts}; {done} of {len(self.tasks)} are done",
            f"predicted {self.hours:.1f} hours for the rest{at_once} ({self.source}; minutes each: {each})",
        ]

    def as_json(self) -> dict[str, Any]:
        """Return what `--dry-run --json` prints."""
        titles = [task.job.title for task in self.tasks]
        return {
            "cells": self.cells,
            "trainings": titles,
            "finished": len(self.tasks) - len(self.open),
            "predicted_hours": round(self.hours, 3),
            "prediction_from": self.source,
        }


def trainings_of(cells: Sequence[StudyTrial], *, dataset_hash: str, study: str) -> tuple[StudyTraining, ...]:
    """Return the trainings of cells in order; equal pretrainings become one."""
    tasks: dict[str, StudyTraining] = {}
    for cell in cells:
        needs = ""
        if cell.pretrain is not None:
            words = _plain(cell.pretrain)
            needs = digest_of(["pretrain", dataset_hash, cell.pretrain.fingerprint(exclude=_APART)])
            title = f"pretrain {cell.arm} seed {cell.pretrain.seed}" + _fold(cell)
            tags = {"study": study, "role": "pretraining"}
            job = Job("pretrain", title, needs, {**words, **_places(cell.pretrain)}, tags)
            tasks.setdefault(needs, StudyTraining(job, "", cell))
        words = _plain(cell.finetune)
        digest = digest_of(["finetune", dataset_hash, cell.finetune.fingerprint(exclude=_APART), needs])
        tags = {"study": study, "role": "cell", "stratum": cell.stratum}
        init = {"init": SCRATCH} if not needs else {}
        settings = {**words, **_places(cell.finetune), **init}
        tasks[digest] = StudyTraining(
            Job("finetune", f"finetune {cell.title}", digest, settings, tags), needs, cell
        )
    return tuple(tasks.values())


def plan_study(
    cells: Sequence[StudyTrial],
    tasks: Sequence[StudyTraining],
    *,
    store: Store,
    timer: Callable[[StudyTraining], float],
    width: int = 1,
) -> StudyPlan:
    """Look up what is done, and predict the rest.

    Args:
        cells: of the study.
        tasks: their trainings.
        store: the local store.
        timer: gives the minutes of a training from a short one, for a kind of which none is finished.
        width: trainings that run at one time.
    """
    known = {task.job.digest for task in tasks}
    runs = [run for run in store.runs() if run.data.tags.get(DIGEST) in known]
    ended = [run for run in runs if run.info.status == "FINISHED"]
    finished = {run.data.tags[DIGEST]: str(run.info.run_id) for run in reversed(ended)}
    minutes: dict[str, float] = {}
    sources = []
    for kind in dict.fromkeys(task.kind for task in tasks):
        alike = {task.job.digest: task for task in tasks if task.kind == kind}
        spent = [
            run.data.metrics["cost/minutes"]
            for run in ended
            if run.data.tags[DIGEST] in alike and "cost/minutes" in run.data.metrics
        ]
        minutes[kind] = statistics.median(spent) if spent else timer(next(iter(alike.values())))
        sources.append(f"{kind}: " + (f"median of {len(spent)} finished" if spent else "a short timing"))
    return StudyPlan(len(cells), tuple(tasks), finished, minutes, ", ".join(sources), width)


def timed_minutes(task: StudyTraining, *, dataset: Dataset, engine: StudyEngine, near: Path) -> float:
    """Return the minutes that a training will take, from one of a few steps.

    Args:
        task: the training.
        dataset: that it learns from.
        engine: that will run it.
        near: where a home folder of its own is made for a while; the folder above keeps what it prepares.
    """
    short: dict[str, Any] = {"steps": _TIMED_STEPS, "epochs": None, "minutes": None, "num_evaluations": 2}
    short |= {"init": SCRATCH} if task.job.stage == "finetune" else {}
    with tempfile.TemporaryDirectory(dir=near) as home:
        (near.parent / PREPARED).mkdir(parents=True, exist_ok=True)
        (Path(home) / PREPARED).symlink_to((near.parent / PREPARED).resolve())
        job = replace(task.job, settings={**task.job.settings, **short})
        for _ in range(2):  # the same patches twice: volumes are prepared once, most steps find them so
            begun = time.monotonic()
            [(_, outcome)] = engine.run([job], Path(home))
            whole = time.monotonic() - begun
            if outcome.run_id is None:
                raise RunError(f"{task.job.title}, timed for the plan: {outcome.error}")
        history = Store(Path(home)).client.get_metric_history(outcome.run_id, "train/loss")
    first, middle, last = (point.timestamp / 1000 for point in sorted(history, key=lambda one: one.step))
    step = (middle - first) / 10
    evaluation = max(last - middle - 10 * step, 0.0)
    around = max(whole - _TIMED_STEPS * step - 2 * evaluation, 0.0)
    settings = task.cell.finetune if task.job.stage == "finetune" else task.cell.pretrain
    budget = budget_for(settings or task.cell.finetune, volumes=_volumes(task, dataset))
    if budget.minutes is not None:
        return float(budget.minutes + around / 60)
    steps = budget.steps or 0
    return float(around + steps * step + int(task.job.settings["num_evaluations"]) * evaluation) / 60


def _volumes(task: StudyTraining, dataset: Dataset) -> int:
    """Return how many volumes a training draws from: an epoch draws each once."""
    tune = task.cell.finetune
    if task.job.stage == "pretrain":
        return len(partition(dataset, fold=tune.fold).train)
    usable = build_task(tune.task, **tune.task_options).usable
    train = partition(dataset, fold=tune.fold, usable=usable).train
    return len(limit_patients(train, count=tune.num_labelled, share=tune.label_fraction))


def _plain(settings: PretrainSettings | FinetuneSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude=_APART)


def _places(settings: PretrainSettings | FinetuneSettings) -> dict[str, Any]:
    return {"data": str(settings.data.resolve()), "experiment": settings.experiment}


def _fold(cell: StudyTrial) -> str:
    return "" if cell.finetune.fold is None else f" fold {cell.finetune.fold}"
