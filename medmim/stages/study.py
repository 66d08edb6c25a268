"""`medmim study`: every arm pretrained, fine-tuned and tested alike, then compared; resumable."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medmim.data.manifest import Dataset, read_dataset
from medmim.encoders import ENCODERS
from medmim.errors import UsageError, unknown_name
from medmim.heads import HEADS
from medmim.masks import build_mask
from medmim.methods import METHODS
from medmim.stages.job import Engine, Job, run_apart
from medmim.stages.study_conclusion import Concluded, conclude
from medmim.stages.study_plan import Plan, Task, plan_study, tasks_of, timed_minutes
from medmim.study import Cell, StudySettings, cells_of
from medmim.tracking.store import Store
from medmim.tracking.tree import PARENT, Tree, columns_of


@dataclass(frozen=True)
class Studied:
    """How a study stands.

    Attributes:
        name: of the study.
        plan: as it was before this run.
        failures: title and reason of each training that did not finish.
        left: titles of trainings that `--max-hours` left for later.
        concluded: comparison and report of the cells that are finished; None where there are none.
    """

    name: str
    plan: Plan
    failures: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    concluded: Concluded | None = None

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
    engine: Engine = run_apart,
    timer: Callable[[Task], float] | None = None,
    say: Callable[[str], None] = print,
) -> Studied:
    """Run what is not yet done of a study, and compare what is.

    Args:
        settings: what is varied and what is shared.
        home: `MEDMIM_HOME`.
        dry_run: print the plan only.
        max_hours: begin no training that would, as predicted, end later than this from now.
        engine: runs one training.
        timer: predicts the minutes of a training; by a short one without.
        say: takes lines for the user.

    Raises:
        MedmimError: for settings or data that no cell can work with, before anything is run.
    """
    cells = cells_of(settings)
    _check_names(cells)
    dataset = read_dataset(settings.data)
    store = Store(home)
    with _alone(home / "studies", settings.name):
        tasks = tasks_of(cells, dataset_hash=dataset.info.content_hash, study=settings.name)
        timer = timer or partial(timed_minutes, dataset=dataset, engine=engine)
        plan = plan_study(cells, tasks, store=store, timer=timer)
        for line in plan.lines():
            say(line)
        if dry_run:
            return Studied(settings.name, plan)
        tree = Tree(store, settings.name)
        root = tree.root(_dataset_tags(dataset))
        root.text("study.json", json.dumps(columns_of(settings), indent=2, sort_keys=True))
        runner = _Runner(tree, root.run_id, plan, home, engine, say)
        runner.run(max_hours)
        concluded = conclude(tree, root, tasks, runner.finished)
        root.finish("FAILED" if runner.failures else "FINISHED")
    return Studied(settings.name, plan, tuple(runner.failures), tuple(runner.left), concluded)


class _Runner:
    """Runs the open tasks of a plan one after the other; a failed one fails alone."""

    def __init__(
        self, tree: Tree, root: str, plan: Plan, home: Path, engine: Engine, say: Callable[[str], None]
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

    def run(self, max_hours: float | None) -> None:
        """Run all that the time allows."""
        begun = time.monotonic()
        for number, task in enumerate(self.plan.open, start=1):
            ready = (time.monotonic() - begun) / 60 + self.plan.minutes[task.job.stage]
            if self.left or (max_hours is not None and ready > 60 * max_hours):
                self.left.append(task.job.title)
                continue
            self.say(f"{number}/{len(self.plan.open)} {task.job.title}")
            self._run(task)

    def _run(self, task: Task) -> None:
        if task.needs and task.needs not in self.finished:
            self.failures.append(f"{task.job.title}: not run, because its pretraining failed")
            return
        arm = self.tree.arm(task.cell, root=self.root)
        outcome = self.engine(self._placed(task, arm.run_id), self.home)
        if outcome.run_id is None:
            self.failures.append(f"{task.job.title}: {outcome.error}")
            self.say(f"    failed: {outcome.error}")
        else:
            self.finished[task.job.digest] = outcome.run_id
            self.say(f"    {outcome.minutes:.1f} minutes")

    def _placed(self, task: Task, arm: str) -> Job:
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


def _check_names(cells: Sequence[Cell]) -> None:
    """Find a wrong word before hours of the cells around it."""
    for cell in cells:
        tables = [("task", cell.finetune.task, HEADS)]
        tables += [("encoder", one.encoder, ENCODERS) for one in (cell.finetune, cell.pretrain) if one]  # type: ignore[misc]
        tables += [("method", cell.pretrain.method, METHODS)] if cell.pretrain else []  # type: ignore[list-item]
        for kind, word, known in tables:
            if word is not None and ":" not in word and word not in known:
                raise unknown_name(kind, word, known)
        if cell.pretrain:
            build_mask(cell.pretrain.mask, ratio=cell.pretrain.ratio, **cell.pretrain.mask_options)


def _dataset_tags(dataset: Dataset) -> dict[str, str]:
    info = dataset.info
    return {"dataset": info.name, "dataset_hash": info.content_hash, "split_hash": dataset.split_hash}
