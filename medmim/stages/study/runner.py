"""`medmim study`: pretrain, fine-tune and test every arm alike, then compare them; resumable."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from medmim import files
from medmim.config.study import StudySettings, trials_of
from medmim.data.dataset.manifest import Dataset, read_dataset
from medmim.errors import RunError, UsageError, counted
from medmim.notebook import NotebookResult, Table
from medmim.stages.compare import CompareResult
from medmim.stages.study.checks import check_names, checked_trainings
from medmim.stages.study.conclusion import conclude
from medmim.stages.study.engines import LocalEngine, StudyEngine
from medmim.stages.study.planning import StudyPlan, StudyTraining, plan_study, timed_minutes
from medmim.stages.study.training_process import Job, Outcome
from medmim.tracking.mlflow_recorder import MlflowRecorder
from medmim.tracking.mlflow_store import Store
from medmim.tracking.study_runs import PARENT, PlannedTraining, StudyRuns, runs_of_study
from medmim.tracking.sync import server_of, sync


@dataclass(frozen=True)
class StudyOptions:
    """Options of one run of the command.

    Attributes:
        max_hours: start only trainings that are predicted to end within this time.
        promote: promote the model of the best arm if the study is finished and the paired test allows it.
        config: what the user typed for the study, a file or a preset, for commands in messages.
    """

    dry_run: bool = False
    max_hours: float | None = None
    promote: bool = False
    config: str = ""


_DEFAULTS = StudyOptions()


@dataclass(frozen=True)
class StudyResult(NotebookResult):
    """State of a study after a run of the command.

    Attributes:
        plan: before this run of the command.
        failures: title and reason of each training that did not finish.
        left: titles of the trainings postponed by `--max-hours`.
        compared: comparison and report of the finished trials; None if there are none.
    """

    name: str
    plan: StudyPlan
    failures: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    compared: CompareResult | None = None

    def table(self) -> Table:
        """Return the table of the comparison, or the planned trainings if no trial is finished."""
        if self.compared:
            return self.compared.table()
        return [["training"], *([one.job.title] for one in self.plan.trainings)]

    def remarks(self) -> Sequence[str]:
        """Return the sentences of the comparison, and the postponed and failed trainings."""
        found = self.compared.remarks() if self.compared else self.plan.lines()
        left = [f"postponed: {title}" for title in self.left]
        return [*found, *left, *(f"failed: {failure}" for failure in self.failures)]

    def picture(self) -> bytes | None:
        """Return the figure of the comparison."""
        return self.compared.picture() if self.compared else None

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        state = {"study": self.name, "plan": self.plan.as_json(), "failures": list(self.failures)}
        found = self.compared.as_json() if self.compared else {}
        return {**state, "left": list(self.left), **found}


def study(
    settings: StudySettings,
    *,
    home: Path,
    options: StudyOptions = _DEFAULTS,
    engine: StudyEngine | None = None,
    timer: Callable[[StudyTraining], float] | None = None,
    clock: Callable[[], float] = time.monotonic,
    log: Callable[[str], None] = print,
) -> StudyResult:
    """Run the unfinished trainings of a study, then compare all finished trials.

    Args:
        engine: runs trainings; by default one at a time on this machine, each in its own process.
        timer: predicts the minutes of a training; by default from a short training.

    Raises:
        UsageError: if `max_hours` is negative or not a number.
        MedmimError: if settings or data are invalid; checked before the first training.
    """
    if options.max_hours is not None and not options.max_hours >= 0:
        raise UsageError(f"--max-hours: expected a number of hours, 0 or more, got {options.max_hours:g}")
    trials = trials_of(settings)
    check_names(trials)
    dataset = read_dataset(settings.data)
    volumes = counted(len(dataset.volumes), "volume")
    log(f"study      '{settings.name}' on {dataset.info.name} at '{settings.data}' ({volumes}); in '{home}'")
    store = Store(home)
    with _locked(home, settings.name):
        trainings = checked_trainings(trials, dataset, study=settings.name, home=home)
        engine = engine or LocalEngine()
        timer = timer or partial(
            timed_minutes, dataset=dataset, engine=engine, near=home / "studies", log=log
        )
        plan = plan_study(trials, trainings, store=store, timer=timer, width=engine.width)
        for line in plan.lines():
            log(line)
        if options.dry_run:
            return StudyResult(settings.name, plan)
        study_runs = StudyRuns(store, settings.name)
        root = study_runs.start(settings, [_planned(one) for one in trainings], _dataset_tags(dataset))
        runner = _Runner(study_runs, root.run_id, plan, home, engine, log, clock)
        runner.run(options.max_hours)
        varied = sorted({key for arm in settings.arms for key in arm})
        with _ended(root, runner, settings.name):
            words: dict[str, Any] = {"promoting": options.promote, "config": options.config}
            compared = conclude(study_runs, root, trainings, runner.finished, varied=varied, **words)
        _upload(store, settings.name, log)
    return StudyResult(settings.name, plan, tuple(runner.failures), tuple(runner.left), compared)


@dataclass
class _Runner:
    """Runs the unfinished trainings of a plan; a failed training does not stop the others."""

    study_runs: StudyRuns
    root: str
    plan: StudyPlan
    home: Path
    engine: StudyEngine
    log: Callable[[str], None]
    clock: Callable[[], float]
    failures: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.finished = dict(self.plan.finished)
        self._begun = self.clock()
        self._running = 0
        self._kinds = {one.job.digest: one.kind for one in self.plan.unfinished}
        self._took: dict[str, list[float]] = {}
        self._settled: set[str] = set()

    def run(self, max_hours: float | None) -> None:
        """Run trainings within the time limit; an engine that asks ahead runs all pretrainings first."""
        waves = [self.plan.unfinished]
        if self.engine.asks_ahead:
            waves = [tuple(one for one in waves[0] if bool(one.needs) == late) for late in (False, True)]
        for wave in waves:
            for job, outcome in self.engine.run(self._jobs(wave, max_hours), self.home):
                self._running -= 1
                self._record(job, outcome)

    def _jobs(self, trainings: Sequence[StudyTraining], max_hours: float | None) -> Iterator[Job]:
        """Yield the jobs that can run at the time they are requested."""
        for one in trainings:
            title = one.job.title
            if self.left or (max_hours is not None and self._predicted_end(one) > 60 * max_hours):
                self.left.append(title)
                self._settled.add(one.job.digest)
            elif one.needs and one.needs not in self.finished:
                self.failures.append(f"{title}: not run, because its pretraining failed")
                self._settled.add(one.job.digest)
            else:
                self._running += 1
                number = self.plan.unfinished.index(one) + 1
                self.log(f"{number}/{len(self.plan.unfinished)} {title}")
                arm = self.study_runs.arm(one.trial, root=self.root)
                init = {"init": self.finished[one.needs]} if one.needs else {}
                tags = {**one.job.tags, PARENT: arm.run_id}
                yield replace(one.job, settings={**one.job.settings, **init}, tags=tags)

    def _predicted_end(self, training: StudyTraining) -> float:
        """Return the minutes from the start of the study to the predicted end of a training."""
        rounds = self._running // self.engine.width + 1
        return (self.clock() - self._begun) / 60 + rounds * self._minutes(training.kind)

    def _minutes(self, kind: str) -> float:
        """Return the median minutes of finished trainings of a kind, or the prediction if there are none."""
        took = self._took.get(kind)
        return statistics.median(took) if took else self.plan.minutes[kind]

    def _record(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome of a training and log the predicted time of the others."""
        prefix = f"{job.title}: " if self.engine.asks_ahead else ""
        self._settled.add(job.digest)
        if outcome.run_id is None:
            self.failures.append(f"{job.title}: {outcome.error}")
            self.log(f"    {prefix}failed: {outcome.error}")
            return
        self.finished[job.digest] = outcome.run_id
        self._took.setdefault(self._kinds[job.digest], []).append(outcome.minutes)
        rest = [one for one in self.plan.unfinished if one.job.digest not in self._settled]
        minutes = sum(self._minutes(one.kind) for one in rest) / self.engine.width
        left = f"; about {minutes:.0f} minutes left" if rest else ""
        self.log(f"    {prefix}{outcome.minutes:.1f} minutes{left}")


@contextmanager
def _locked(home: Path, name: str) -> Iterator[None]:
    """Prevent a second process from running the same study."""
    try:
        with files.lock(home / "studies" / name, wait=False):
            yield
    except files.LockedError as error:
        raise UsageError(f"study '{name}' is running in another process: wait until it ends") from error


@contextmanager
def _ended(root: MlflowRecorder, runner: _Runner, name: str) -> Iterator[None]:
    """End the run of a study as its trainings ended, whatever becomes of their comparison."""
    try:
        yield
    except Exception:
        runner.log(f"finished trainings are kept; `medmim compare --study {name}` compares them again")
        raise
    finally:
        root.finish("FAILED" if runner.failures else "FINISHED")


def _upload(store: Store, name: str, log: Callable[[str], None]) -> None:
    """Upload the results to the tracking server, if one is configured."""
    uri = server_of(store)
    if uri is not None:
        try:
            sync(store, uri, runs=runs_of_study(store, name))
        except RunError as error:
            log(f"note: {error}")


def _planned(training: StudyTraining) -> PlannedTraining:
    if training.job.stage == "pretrain":
        return PlannedTraining(training.job.digest)
    return PlannedTraining(training.job.digest, training.trial.arm, training.trial.stratum)


def _dataset_tags(dataset: Dataset) -> dict[str, str]:
    info = dataset.info
    return {"dataset": info.name, "dataset_hash": info.content_hash, "split_hash": dataset.split_hash}
