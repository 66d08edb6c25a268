"""The table of fine-tuning tasks and their builder."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from medmim.errors import refuse_unknown_options, unknown_name
from medmim.training.tasks.base import Task
from medmim.training.tasks.classification import Classification
from medmim.training.tasks.detection import Detection
from medmim.training.tasks.regression import Regression
from medmim.training.tasks.segmentation import Segmentation

TASKS: dict[str, Callable[..., Task]] = {
    "classify": Classification,
    "detect": Detection,
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
