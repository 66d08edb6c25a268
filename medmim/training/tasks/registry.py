"""The table of fine-tuning tasks and their builder."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset
from medmim.errors import refuse_unknown_options, unknown_name
from medmim.training.tasks.base import Task
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
