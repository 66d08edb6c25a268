"""Preparation of a task from the training data: class names, label codes and the complete plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.choose_plan import choose_plan
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.preprocessing_plan import Dims, PreprocessingPlan, plan_for
from medmim.shapes import Size
from medmim.training.tasks.base import Task

_LEFT_RIGHT = (0,)  # front and back, head and feet differ in a body


def prepare_task(
    task: Task,
    settings: FinetuneSettings,
    dataset: Dataset,
    train: Sequence[VolumeRecord],
    *,
    dims: Dims,
    multiple: Size,
    home: Path | None,
    log: Callable[[str], None],
) -> tuple[PreprocessingPlan, dict[int, str]]:
    """Return the complete plan and the class names by index; logs each choice and what to know of the data.

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
    fingerprint = fingerprint_of(settings.data, train, home=home, ignore=ignore)
    names = task.names(dataset, train, fingerprint)
    plan, lines = choose_plan(
        plan, settings, fingerprint, names=names.values(), axes=_LEFT_RIGHT, volumes=train
    )
    for line in [*lines, *task.notes(dataset, fingerprint, names)]:
        log(line)
    return task.with_labels(plan, dataset, fingerprint), names
