"""The table of fine-tuning tasks, their builder, and their preparation from the training data."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset
from medmim.data.loading.choose_plan import choose_plan
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.preprocessing_plan import Dims, PreprocessingPlan, plan_for
from medmim.errors import refuse_unknown_options, unknown_name
from medmim.shapes import Size
from medmim.training.tasks.base import Cases, Task
from medmim.training.tasks.classification import Classification
from medmim.training.tasks.detection import Detection
from medmim.training.tasks.multilabel import MultiLabel
from medmim.training.tasks.ordinal import Ordinal
from medmim.training.tasks.regression import Regression
from medmim.training.tasks.segmentation import Segmentation

TASKS: dict[str, Callable[..., Task]] = {
    "classify": Classification,
    "detect": Detection,
    "multilabel": MultiLabel,
    "ordinal": Ordinal,
    "regress": Regression,
    "segment": Segmentation,
}


def build_task(name: str, **options: Any) -> Task:
    """Build the task `name` with its options.

    Raises:
        UsageError: for an unknown task or option, or an invalid value.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    refuse_unknown_options(f"task '{name}'", options, signature(TASKS[name]).parameters)
    return TASKS[name](**options)


def with_task_of(
    dataset: Dataset, settings: FinetuneSettings, log: Callable[[str], None] = lambda _: None
) -> FinetuneSettings:
    """Return settings with the task multilabel in place of classify if images have several classes."""
    several = sum(bool(volume.targets) for volume in dataset.volumes)
    if settings.task != "classify" or settings.task_options.get("exclusive") or not several:
        return settings
    log(
        f"task multilabel: {several} of {len(dataset.volumes)} images have values of several classes, so "
        "each class has a probability of its own; one class per image: --set task_options.exclusive=true"
    )
    return settings.model_copy(update={"task": "multilabel"})


_LEFT_RIGHT = (0,)  # front and back, head and feet differ in a body


def prepare_task(
    task: Task,
    settings: FinetuneSettings,
    dataset: Dataset,
    train: Cases,
    *,
    dims: Dims,
    multiple: Size,
    home: Path | None,
    log: Callable[[str], None],
) -> tuple[PreprocessingPlan, dict[int, str]]:
    """Return the complete plan and the class names by index; logs each choice and notes about the data.

    Raises:
        DataError: if the training data lack classes or cannot be read.
        ShapeError: for a size that does not fit.
    """
    plan = plan_for(
        train,
        dims=dims,
        size=settings.size,
        multiple=multiple,
        view=settings.field_of_view or task.view(dims),
        spacing_mm=settings.spacing_mm,
    )
    ignore = dataset.info.ignore_label if settings.ignore_label is None else settings.ignore_label
    if (name := dataset.info.label_names.get(settings.ignore_label or 0)) is not None:
        log(
            f"warning: ignore_label={settings.ignore_label} is the class '{name}' of the dataset: its voxels "
            "are left out of training and test, and the class is not learned"
        )
    fingerprint = fingerprint_of(settings.data, train, home=home, ignore=ignore)
    names = task.names(dataset, train, fingerprint)
    plan, lines = choose_plan(
        plan, settings, fingerprint, names=names.values(), axes=_LEFT_RIGHT, volumes=train
    )
    for line in [*lines, *task.notes(dataset, fingerprint, names)]:
        log(line)
    return task.with_labels(plan, dataset, fingerprint), names
