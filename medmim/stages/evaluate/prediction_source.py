"""Where evaluated predictions come from: a trained model, or a folder of saved predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medmim.data.dataset.channels import group_channels, unstacked_channels
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.errors import DataError, counted
from medmim.stages.evaluate.case_scores import CaseScorer, ModelScorer
from medmim.stages.evaluate.chosen_metrics import ChosenMetrics, choose_metrics
from medmim.stages.evaluate.class_matching import ClassMatching
from medmim.stages.evaluate.saved_predictions import PredictionScorer, SavedPredictions, read_predictions
from medmim.stages.model_lookup import find_model
from medmim.stages.unlike_training_data import check_scans, modality_warnings
from medmim.training.tasks.base import Task
from medmim.training.tasks.registry import build_task
from medmim.training.tasks.segmentation import Segmentation
from medmim.training.tasks.trained_model import TrainedModel, load_trained_model


@dataclass(frozen=True)
class EvaluationOptions:
    """What is evaluated, and how.

    Attributes:
        targets, column: CSV file and column of the classes or numbers, as in `FinetuneSettings`.
        metrics: reported metrics; empty: those of the task.
        force: score scans too that do not resemble the training data of the model.
    """

    model: str | None = None
    predictions: Path | None = None
    split: str = "test"
    by: str | None = None
    label_map: Sequence[str] = ()
    targets: Path | None = None
    column: str = ""
    metrics: Sequence[str] = ()
    force: bool = False


@dataclass(frozen=True)
class PredictionSource:
    """Where predictions come from: a model, or a folder."""

    title: str
    kind: str
    classes: Sequence[str]
    task: Task
    metrics: ChosenMetrics
    trained: TrainedModel | None = None
    weights: Path | None = None
    saved: SavedPredictions | None = None

    @property
    def trained_on(self) -> str | None:
        """Content hash of the training dataset, None where it is unknown."""
        return self.trained.description.get("dataset_hash") if self.trained else None

    def cases(self, dataset: Dataset) -> tuple[Sequence[VolumeRecord], Sequence[VolumeRecord]]:
        """Return the cases of a dataset, and the volumes of visits that are none."""
        if self.trained:
            return self.trained.cases(dataset)
        if self.saved and self.saved.channels:  # predictions exist of visits that lacked channels, too
            return group_channels(dataset.volumes, self.saved.channels, incomplete=True)
        return dataset.volumes, ()


def find_source(options: EvaluationOptions, home: Path, log: Callable[[str], None]) -> PredictionSource:
    """Return the model or the predictions that the options name."""
    if options.predictions is not None:
        saved = read_predictions(options.predictions)
        task, metrics = _with_metrics(saved.kind, build_task(saved.kind), options.metrics)
        return PredictionSource(saved.model, saved.kind, list(saved.classes), task, metrics, saved=saved)
    selected = find_model(options.model, home, log)
    trained = load_trained_model(selected.weights)
    task, metrics = _with_metrics(trained.kind, trained.task, options.metrics)
    classes = [trained.names[number] for number in sorted(trained.names)]
    return PredictionSource(
        selected.title, trained.kind, classes, task, metrics, replace(trained, task=task), selected.weights
    )


def _with_metrics(kind: str, task: Task, names: Sequence[str]) -> tuple[Task, ChosenMetrics]:
    """Return the task, which computes the metrics, and the reported ones."""
    metrics = choose_metrics(kind, task.metric, names)
    return replace(task, metrics=metrics.names) if isinstance(task, Segmentation) else task, metrics


def annotated_cases(
    source: PredictionSource, dataset: Dataset, split: str
) -> tuple[list[VolumeRecord], list[str]]:
    """Return the annotated cases of a split, and notes about volumes that are left out."""
    volumes, rest = source.cases(dataset)
    inside = [one for one in volumes if split in ("all", one.split)]
    usable = [one for one in inside if source.task.usable(one)]
    if not usable:
        raise DataError(
            f"no case of '{dataset.root}' with {source.task.requirement} (--split {split}): expected "
            "annotations for the task of the model; ingest them, or try --split all",
            reason="no_labels",
        )
    left_out = counted(len(rest), "volume")
    notes = [f"left out: {left_out} of visits without all channels of the model"] if rest else []
    if len(usable) < len(inside):
        notes.append(
            f"left out: {len(inside) - len(usable)} of {counted(len(inside), 'image')} without annotation"
        )
    line, words = unstacked_channels(usable) if source.trained and not source.trained.channels else ("", "")
    if line:
        notes.append(f"{line} ({words}), also where the model was trained on another one of them")
    unknown = sum(one.flags.get("spacing") == "unknown" for one in usable)
    if source.task.measures_mm and unknown:
        notes.append(f"unknown pixel size of {counted(unknown, 'image')}: scores assume 1 mm")
    return usable, notes


def build_scorer(
    source: PredictionSource, dataset: Dataset, codes: Mapping[str, Sequence[int]], matching: ClassMatching
) -> CaseScorer:
    """Return the scorer of the cases."""
    if source.trained:
        return ModelScorer(source.trained, dataset, codes, matching)
    assert source.saved  # there is a model or a folder
    return PredictionScorer(source.saved, source.task, dataset, codes, matching)


def unlike_training_data_of(
    source: PredictionSource,
    dataset: Dataset,
    cases: Sequence[VolumeRecord],
    log: Callable[[str], None],
    *,
    force: bool,
) -> dict[str, str]:
    """Return how cases differ from the training data of the model, by volume id, as `check_scans` does."""
    if not source.trained:
        return {}
    modality_warnings(source.trained, cases, log)
    return check_scans(source.trained.description, cases, dataset.root, log, force=force)
