"""Plan of a study: its trainings in order, which of them are finished, and the predicted remaining hours."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medmim import files
from medmim.config.runs import FinetuneSettings
from medmim.config.study import DIGEST, EQUAL_COST, SCRATCH, StageSettings, StudyTrial, settings_of_result
from medmim.data.dataset.manifest import Dataset, digest_of
from medmim.data.dataset.splits import limit_patients, partition
from medmim.data.loading.disk_cache import PREPARED
from medmim.errors import RunError, SettingsError, counted
from medmim.stages.plan.trial_run import ended_by_signals
from medmim.stages.resumption import TARGETS_FILE
from medmim.stages.study.engines import LocalEngine, StudyEngine
from medmim.stages.study.training_process import Job, run_apart
from medmim.stages.target_table import with_keyed_targets, with_targets
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import budget_for
from medmim.training.recipe import with_recipe
from medmim.training.tasks.registry import build_task, with_task_of

_TIMINGS = "timings.json"  # predicted minutes by digest of training and machine
_LIMIT_S = 30.0  # of each short training, of which a study times two
_TIMED_STEPS = 21  # losses are logged at steps 1, 11 and 21; the first of two evaluations follows step 11


@dataclass(frozen=True)
class StudyTraining:
    """A training of a study, with its trial and the pretraining it depends on.

    Attributes:
        job: run in its own process; `init` is set when the pretraining has finished.
        needs: digest of the pretraining whose weights it starts from; empty if there is none.
    """

    job: Job
    needs: str
    trial: StudyTrial

    @property
    def kind(self) -> str:
        """Stage, encoder and longer control; trainings of the same kind take about the same time."""
        control = EQUAL_COST if self.trial.arm == EQUAL_COST else None
        return " ".join(filter(None, (self.job.stage, self.trial.finetune.encoder, control)))


@dataclass(frozen=True)
class StudyPlan:
    """All trainings of a study.

    Attributes:
        trainings: in order; a pretraining shared by several trials is listed once.
        finished: digest → id of the finished run.
        minutes: predicted minutes of each kind of training.
        source: basis of the prediction.
        width: number of trainings that run at the same time.
    """

    trials: int
    trainings: tuple[StudyTraining, ...]
    finished: Mapping[str, str]
    minutes: Mapping[str, float]
    source: str
    width: int = 1

    @property
    def unfinished(self) -> tuple[StudyTraining, ...]:
        """Trainings that are not finished."""
        return tuple(one for one in self.trainings if one.job.digest not in self.finished)

    @property
    def hours(self) -> float:
        """Predicted hours of the unfinished trainings."""
        return sum(self.minutes.get(one.kind, 0.0) for one in self.unfinished) / 60 / self.width

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        stages = [one.job.stage for one in self.trainings]
        pretrainings = counted(stages.count("pretrain"), "pretraining")
        counts = f"{pretrainings}, {counted(stages.count('finetune'), 'fine-tuning')}"
        done = len(self.trainings) - len(self.unfinished)
        each = ", ".join(f"{kind} {minutes:.1f}" for kind, minutes in sorted(self.minutes.items()))
        at_once = f", {self.width} at a time" if self.width > 1 else ""
        return [
            f"{counted(self.trials, 'trial')}: {counts}; {done} of {len(self.trainings)} are finished",
            f"predicted {self.hours:.1f} hours for the rest{at_once} ({self.source}; minutes each: {each})",
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--dry-run --json`."""
        return {
            "cells": self.trials,
            "trainings": [one.job.title for one in self.trainings],
            "finished": len(self.trainings) - len(self.unfinished),
            "predicted_hours": round(self.hours, 3),
            "prediction_from": self.source,
        }


def trainings_of(trials: Sequence[StudyTrial], *, dataset_hash: str, study: str) -> tuple[StudyTraining, ...]:
    """Return the trainings of trials in order; equal pretrainings are merged.

    Raises:
        SettingsError: if two trials are the same training, such as encoders [resnet18, null].
    """
    found: dict[str, StudyTraining] = {}
    for trial in trials:
        needs, pre, tune = "", trial.pretrain, trial.finetune
        if pre is not None:
            needs = digest_of(["pretrain", dataset_hash, settings_of_result(pre)])
            fold = "" if tune.fold is None else f" fold {tune.fold}"
            title = f"pretrain {trial.arm} seed {pre.seed}{fold}"
            job = Job("pretrain", title, needs, job_settings(pre), {"study": study, "role": "pretraining"})
            found.setdefault(needs, StudyTraining(job, "", trial))
        digest = digest_of(["finetune", dataset_hash, settings_of_result(tune), needs])
        settings = job_settings(tune) | ({} if needs else {"init": SCRATCH})
        tags = {"study": study, "role": "cell", "stratum": trial.stratum}
        job = Job("finetune", f"finetune {trial.title}", digest, settings, tags)
        if digest in found:
            twins = f"'{found[digest].trial.title}' and '{trial.title}'"
            raise SettingsError(f"study: {twins} are the same training: leave one of them out")
        found[digest] = StudyTraining(job, needs, trial)
    return tuple(found.values())


def plan_study(
    trials: Sequence[StudyTrial],
    trainings: Sequence[StudyTraining],
    *,
    store: Store,
    timer: Callable[[StudyTraining], float],
    width: int = 1,
) -> StudyPlan:
    """Determine which trainings are finished and predict the minutes of the others.

    The timer measures kinds of trainings of which none is finished.
    """
    known = {one.job.digest for one in trainings}
    runs = store.tagged(DIGEST, known)
    ended = [run for run in runs if run.info.status == "FINISHED"]
    finished = {run.data.tags[DIGEST]: str(run.info.run_id) for run in reversed(ended)}
    minutes: dict[str, float] = {}
    sources = []
    for kind in dict.fromkeys(one.kind for one in trainings):
        alike = {one.job.digest: one for one in trainings if one.kind == kind}
        spent = [
            run.data.metrics["cost/minutes"]
            for run in ended
            if run.data.tags[DIGEST] in alike and "cost/minutes" in run.data.metrics
        ]
        minutes[kind] = statistics.median(spent) if spent else timer(next(iter(alike.values())))
        sources.append(f"{kind}: " + (f"median of {len(spent)} finished" if spent else "a short timing"))
    return StudyPlan(len(trials), tuple(trainings), finished, minutes, ", ".join(sources), width)


def timed_minutes(
    training: StudyTraining,
    *,
    dataset: Dataset,
    engine: StudyEngine,
    near: Path,
    log: Callable[[str], None] = lambda _: None,
    limit_s: float = _LIMIT_S,
) -> float:
    """Predict the minutes of a training from a short training of a few steps; keep the prediction.

    The folder `near` has a temporary home folder; its parent contains the cache of prepared volumes. After
    `limit_s` the short training is ended and extrapolated from its first steps.
    """
    known, key = json.loads(_read(near / _TIMINGS)), digest_of([training.job.digest, *_machine()])
    if key in known:
        return float(known[key])
    log(f"timing     {training.job.title}: {_TIMED_STEPS} steps, at most {limit_s:.0f} s")
    short: dict[str, Any] = {"steps": _TIMED_STEPS, "epochs": None, "minutes": None, "num_evaluations": 2}
    short |= {"init": SCRATCH} if training.job.stage == "finetune" else {}
    with ended_by_signals(), tempfile.TemporaryDirectory(dir=near) as home:
        (near.parent / PREPARED).mkdir(parents=True, exist_ok=True)
        (Path(home) / PREPARED).symlink_to((near.parent / PREPARED).resolve())
        if training.job.stage == "finetune" and training.trial.finetune.targets:
            with_keyed_targets(training.trial.finetune, Path(home) / TARGETS_FILE, home=near.parent)
            short |= {"targets": str(Path(home) / TARGETS_FILE)}
        job = replace(training.job, settings={**training.job.settings, **short})
        whole, history = _timed(job, _limited(engine, limit_s), Path(home), limit_s)
    minutes = _extrapolated(training, dataset, whole, history, near.parent)
    files.write_json(near / _TIMINGS, {**known, key: minutes})
    return minutes


def _timed(
    job: Job, engine: StudyEngine, home: Path, limit_s: float
) -> tuple[float, list[tuple[int, float]]]:
    """Run a short training, twice if it is quick: the first run fills the cache of prepared volumes.

    Returns the seconds of the last run, and step and second of each logged loss.
    """
    for _ in range(2):
        begun = time.monotonic()
        [(_, outcome)] = engine.run([job], home)
        whole = time.monotonic() - begun
        stopped = outcome.run_id is None and whole >= limit_s
        if outcome.run_id is None and not stopped:
            raise RunError(f"{job.title}, timed for the plan: {outcome.error}")
        if whole > limit_s / 2:
            break
    store = Store(home)
    tags: dict[str, Any] = {DIGEST: job.digest}
    run_id = outcome.run_id or next((run.info.run_id for run in store.runs(**tags)), "")
    points = store.client.get_metric_history(run_id, "train/loss") if run_id else []
    history = sorted((point.step, point.timestamp / 1000) for point in points)
    return whole, history


def _extrapolated(
    training: StudyTraining,
    dataset: Dataset,
    whole: float,
    history: Sequence[tuple[int, float]],
    home: Path,
) -> float:
    """Return the minutes of the whole training, from the times of the losses of a short one."""
    done = max((step for step, _ in history), default=1)
    if done < _TIMED_STEPS:  # stopped early: without the times of evaluations
        step, evaluation, around = whole / done, 0.0, 0.0
    else:
        (_, first), (_, middle), (_, last) = history
        step = (middle - first) / 10
        evaluation = max(last - middle - 10 * step, 0.0)
        around = max(whole - _TIMED_STEPS * step - 2 * evaluation, 0.0)
    trial = training.trial
    own = trial.pretrain if training.job.stage == "pretrain" and trial.pretrain else trial.finetune
    settings = with_recipe(own, partition(dataset, fold=own.fold).train, dims=own.dims)
    budget = budget_for(settings, volumes=num_volumes(training, dataset, home))
    if budget.minutes is not None:
        return float(budget.minutes + around / 60)
    return float(around + (budget.steps or 0) * step + settings.num_evaluations * evaluation) / 60


def _limited(engine: StudyEngine, limit_s: float) -> StudyEngine:
    """Return an engine that ends the processes of this machine after a time."""
    if isinstance(engine, LocalEngine) and engine.call is run_apart:
        return LocalEngine(partial(run_apart, limit_s=limit_s))
    return engine


def _machine() -> tuple[str, ...]:
    """Return what the speed of a training depends on, for a home folder that several machines use."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return platform.machine(), str(os.cpu_count()), gpu


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else "{}"


def num_volumes(training: StudyTraining, dataset: Dataset, home: Path) -> int:
    """Return the number of training volumes, each of which is drawn once per epoch."""
    tune = training.trial.finetune
    dataset = with_targets(dataset, tune.targets, tune.column, home=home, log=lambda line: None)
    if training.job.stage == "pretrain":
        return len(partition(dataset, fold=tune.fold).train)
    tune = with_task_of(dataset, tune)
    usable = build_task(tune.task, **tune.options_of_task).usable
    train = partition(dataset, fold=tune.fold, usable=usable).train
    return len(limit_patients(train, count=tune.num_labelled, share=tune.label_fraction))


def job_settings(settings: StageSettings) -> dict[str, Any]:
    """Return the settings of a training as its process receives them, without those that are open."""
    places = {"data": str(settings.data.resolve()), "experiment": settings.experiment}
    if isinstance(settings, FinetuneSettings) and settings.targets:
        places["targets"] = str(settings.targets.resolve())
    # open settings stay open: the run fills them in from the data
    given = settings.model_dump(mode="json", exclude_unset=True, exclude={"data", "experiment"})
    return {**given, **places}
