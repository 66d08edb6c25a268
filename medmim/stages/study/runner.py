"""`medmim study`: every arm pretrained, fine-tuned and tested alike, then compared; resumable."""

from __future__ import annotations

import fcntl
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medmim.config.study import StudySettings, StudyTrial, trials_of
from medmim.data.dataset.manifest import Dataset, read_dataset
from medmim.encoders import ENCODERS
from medmim.errors import RunError, SettingsError, UsageError, unknown_name
from medmim.heads import HEADS
from medmim.masks import build_mask
from medmim.methods import METHODS, ON_PATCHES
from medmim.stages.study.conclusion import StudyConclusion, conclude
from medmim.stages.study.engines import LocalEngine, StudyEngine
from medmim.stages.study.planning import StudyPlan, StudyTraining, plan_study, timed_minutes, trainings_of
from medmim.stages.study.training_process import Job, Outcome
from medmim.tracking.comparison.study_cells import PlannedTraining, keep_plan, runs_of_study
from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_runs import PARENT, StudyRuns, columns_of
from medmim.tracking.sync import server_of, sync


@dataclass(frozen=True)
class StudyResult:
    """How a study stands.

    Attributes:
        name: of the study.
        plan: as it was before this run.
        failures: title and reason of each training that did not finish.
        left: titles of trainings that `--max-hours` left for later.
        concluded: comparison and report of the cells that are finished; None where there are none.
    """

    name: str
    plan: StudyPlan
    failures: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    concluded: StudyConclusion | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        stand = {"study": self.name, "plan": self.plan.as_json(), "failures": list(self.failures)}
        found = self.concluded.as_json() if self.concluded else {}
        return {**stand, "left": list(self.left), **found}


def study(
    settings: StudySettings,
    *,
    home: Path,
    dry_run: bool = False,
    max_hours: float | None = None,
    engine: StudyEngine | None = None,
    timer: Callable[[StudyTraining], float] | None = None,
    say: Callable[[str], None] = print,
) -> StudyResult:
    """Run what is not yet done of a study, and compare what is.

    Args:
        settings: what is varied and what is shared.
        home: `MEDMIM_HOME`.
        dry_run: print the plan only.
        max_hours: begin no training that would, as predicted, end later than this from now.
        engine: runs trainings; here, each in a process of its own, without.
        timer: predicts the minutes of a training; by a short one without.
        say: takes lines for the user.

    Raises:
        UsageError: for hours that are none.
        MedmimError: for settings or data that no cell can work with, before anything is run.
    """
    if max_hours is not None and not max_hours >= 0:
        raise UsageError(f"--max-hours: expected hours from 0, got {max_hours:g}")
    cells = trials_of(settings)
    _check_names(cells)
    dataset = read_dataset(settings.data)
    store = Store(home)
    with _alone(home / "studies", settings.name):
        tasks = trainings_of(cells, dataset_hash=dataset.info.content_hash, study=settings.name)
        engine = engine or LocalEngine()
        timer = timer or partial(timed_minutes, dataset=dataset, engine=engine, near=home / "studies")
        plan = plan_study(cells, tasks, store=store, timer=timer, width=engine.width)
        for line in plan.lines():
            say(line)
        if dry_run:
            return StudyResult(settings.name, plan)
        tree = StudyRuns(store, settings.name)
        root = tree.root(_dataset_tags(dataset))
        root.text("study.json", json.dumps(columns_of(settings), indent=2, sort_keys=True))
        keep_plan(root, [_planned(task) for task in tasks])
        runner = _Runner(tree, root.run_id, plan, home, engine, say)
        runner.run(max_hours)
        concluded = conclude(tree, root, tasks, runner.finished)
        root.finish("FAILED" if runner.failures else "FINISHED")
        _send(store, settings.name, say)
    return StudyResult(settings.name, plan, tuple(runner.failures), tuple(runner.left), concluded)


class _Runner:
    """Runs the open tasks of a plan; a failed one fails alone."""

    def __init__(
        self,
        tree: StudyRuns,
        root: str,
        plan: StudyPlan,
        home: Path,
        engine: StudyEngine,
        say: Callable[[str], None],
    ) -> None:
        self.tree = tree
        self.root = root
        self.plan = plan
        self.home = home
        self.engine = engine
        self.say = say
        self.finished = dict(plan.finished)
        self.failures: list[str] = []
        self.left: list[str] = []
        self._begun = time.monotonic()
        self._running = 0
        self._kinds = {task.job.digest: task.kind for task in plan.open}
        self._took: dict[str, list[float]] = {}
        self._settled: set[str] = set()

    def run(self, max_hours: float | None) -> None:
        """Run all that the time allows; an engine that asks ahead gets what needs no other training first."""
        waves = [self.plan.open]
        if self.engine.asks_ahead:
            waves = [tuple(task for task in waves[0] if bool(task.needs) == late) for late in (False, True)]
        for wave in waves:
            for job, outcome in self.engine.run(self._jobs(wave, max_hours), self.home):
                self._running -= 1
                self._note(job, outcome)

    def _jobs(self, tasks: Sequence[StudyTraining], max_hours: float | None) -> Iterator[Job]:
        """Yield what can be run by the time that it is asked for."""
        for task in tasks:
            if self.left or (max_hours is not None and self._ready(task) > 60 * max_hours):
                self.left.append(task.job.title)
                self._settled.add(task.job.digest)
            elif task.needs and task.needs not in self.finished:
                self.failures.append(f"{task.job.title}: not run, because its pretraining failed")
                self._settled.add(task.job.digest)
            else:
                self._running += 1
                number = self.plan.open.index(task) + 1
                self.say(f"{number}/{len(self.plan.open)} {task.job.title}")
                arm = self.tree.arm(task.cell, root=self.root)
                yield self._placed(task, arm.run_id)

    def _ready(self, task: StudyTraining) -> float:
        """Return the minutes from the beginning at which a training would end, those before it done."""
        rounds = self._running // self.engine.width + 1
        return (time.monotonic() - self._begun) / 60 + rounds * self._minutes(task.kind)

    def _minutes(self, kind: str) -> float:
        """Return what trainings of a kind took here, or the plan's prediction until the first has ended."""
        took = self._took.get(kind)
        return statistics.median(took) if took else self.plan.minutes[kind]

    def _rest(self) -> str:
        """Return how long what is not yet done will take, in words."""
        rest = [task for task in self.plan.open if task.job.digest not in self._settled]
        minutes = sum(self._minutes(task.kind) for task in rest) / self.engine.width
        return f"; about {minutes:.0f} minutes left" if rest else ""

    def _note(self, job: Job, outcome: Outcome) -> None:
        """Keep how a training ended."""
        words = f"{job.title}: " if self.engine.asks_ahead else ""
        self._settled.add(job.digest)
        if outcome.run_id is None:
            self.failures.append(f"{job.title}: {outcome.error}")
            self.say(f"    {words}failed: {outcome.error}")
        else:
            self.finished[job.digest] = outcome.run_id
            self._took.setdefault(self._kinds[job.digest], []).append(outcome.minutes)
            self.say(f"    {words}{outcome.minutes:.1f} minutes{self._rest()}")

    def _placed(self, task: StudyTraining, arm: str) -> Job:
        """Return the job below its arm's run, starting from the pretraining that it needs."""
        init = {"init": self.finished[task.needs]} if task.needs else {}
        job = task.job
        return replace(job, settings={**job.settings, **init}, tags={**job.tags, PARENT: arm})


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Keep a second process from running the same study; the lock goes with this one, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"study '{name}' is running in another process: wait for it") from None
        yield


def _send(store: Store, name: str, say: Callable[[str], None]) -> None:
    """Let a server, where there is one, have what came after the trainings: the arms' means and the page."""
    uri = server_of(store)
    if uri is not None:
        try:
            sync(store, uri, runs=runs_of_study(store, name))
        except RunError as error:
            say(f"note: {error}")


def _planned(task: StudyTraining) -> PlannedTraining:
    cell = task.cell
    words = (cell.arm, cell.stratum) if task.job.stage == "finetune" else ()
    return PlannedTraining(task.job.digest, *words)


def _check_names(cells: Sequence[StudyTrial]) -> None:
    """Find a wrong word before hours of the cells around it."""
    for cell in cells:
        tables = [("task", cell.finetune.task, HEADS)]
        tables += [("encoder", one.encoder, ENCODERS) for one in (cell.finetune, cell.pretrain) if one]  # type: ignore[misc]
        tables += [("method", cell.pretrain.method, METHODS)] if cell.pretrain else []  # type: ignore[list-item]
        for kind, word, known in tables:
            if word is not None and ":" not in word and word not in known:
                raise unknown_name(kind, word, known)
        if cell.pretrain and cell.pretrain.method in ON_PATCHES and cell.finetune.encoder is None:
            raise SettingsError(
                f"study: method '{cell.pretrain.method}' takes an encoder of tokens, the control another: "
                "expected the encoder of all, such as encoders: [vit]"
            )
        if cell.pretrain:
            build_mask(cell.pretrain.mask, ratio=cell.pretrain.ratio, **cell.pretrain.mask_options)


def _dataset_tags(dataset: Dataset) -> dict[str, str]:
    info = dataset.info
    return {"dataset": info.name, "dataset_hash": info.content_hash, "split_hash": dataset.split_hash}
