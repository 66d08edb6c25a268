"""Scores of predictions in a folder: the output of `medmim predict`, or label maps named by volume id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from medmim.data.dataset.boxes import stored_boxes
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.formats.geometry import corner_distance
from medmim.data.formats.nifti import Image, read_image
from medmim.data.loading.foreground_sampling import IGNORE
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, slice_axis
from medmim.data.loading.recorded_files import read_recorded
from medmim.errors import DataError, UsageError
from medmim.files import inner_path
from medmim.stages.evaluate.case_scores import label_classes, merged_boxes
from medmim.stages.evaluate.class_matching import ClassMatching
from medmim.text_formats import parse_csv, parse_json
from medmim.training.evaluation.classification_metrics import grades_of
from medmim.training.evaluation.panels import FigureRow, panel, segmentation_row
from medmim.training.evaluation.score_segmentations import FinalMetrics, compare_labels
from medmim.training.tasks.base import EvaluationContext, Row, Task
from medmim.training.tasks.multilabel import known_labels
from medmim.training.tasks.regression import number_of
from medmim.training.tasks.segmentation import Segmentation

_INDEX = "predictions.json"
_TABLES = {"detect": "boxes.csv", "regress": "values.csv"}
_SAME_GRID = 0.01  # tolerance in voxels
_ENDS = tuple(f"{end}_{axis}_voxel" for end in ("first", "last") for axis in "xyz")


class _PredictionIndex(BaseModel):
    """The fields of `predictions.json` that are used."""

    model: dict[str, str]
    predicted: list[str]
    classes: dict[str, str]
    names: dict[str, str] = {}  # of output files, by volume id; absent before 0.2


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions in a folder.

    Attributes:
        kind: name of the task.
        classes: class names, with the label values of each for label maps.
        labels: label map by volume id.
        rows: table rows by volume id, for classes, numbers and boxes.
        predicted: volumes with a prediction.
        model: name of the model, where it is known.
        channels: tokens of its input channels, if a case has several volumes.
    """

    folder: Path
    kind: str
    classes: Mapping[str, Sequence[int]]
    labels: Mapping[str, Path] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    predicted: frozenset[str] = frozenset()
    model: str = "predictions"
    channels: tuple[str, ...] = ()


def read_predictions(folder: Path) -> SavedPredictions:
    """Read the predictions in a folder.

    Label maps of other tools are named `<volume id>.nii.gz`; the names of their classes come from a
    `dataset.json` with `labels`, as nnU-Net writes it. Classes without a name are called by their value.

    Raises:
        UsageError: if the folder has no predictions, or its index cannot be read.
    """
    try:
        if (folder / _INDEX).is_file():
            return _of_medmim(folder, _PredictionIndex.model_validate_json((folder / _INDEX).read_bytes()))
        labels = {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.glob("*.nii.gz"))}
        names: dict[int, str] = {}
        if (folder / "dataset.json").is_file():
            given = parse_json((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
            names = {int(value): str(name) for name, value in given.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--predictions '{folder}' cannot be read ({type(error).__name__}): expected the output of "
            "`medmim predict`, or label maps <volume>.nii.gz, with a dataset.json of their names"
        ) from error
    if not labels:
        raise UsageError(
            f"--predictions '{folder}': expected {_INDEX} of `medmim predict`, or label maps "
            "<volume>.nii.gz, found neither"
        )
    codes = names or {code: str(code) for code in _values(labels.values())}
    classes = {name: [code] for code, name in sorted(codes.items()) if code}
    return SavedPredictions(folder, "segment", classes, labels=labels, predicted=frozenset(labels))


class PredictionScorer:
    """Scores cases by saved predictions; a case without boxes or label map counts as an empty prediction."""

    def __init__(
        self,
        saved: SavedPredictions,
        task: Task,
        dataset: Dataset,
        codes: Mapping[str, Sequence[int]],
        matching: ClassMatching,
    ) -> None:
        self.saved = saved
        self.root = dataset.root
        self.matching = matching
        self.task = task
        first = 1 if saved.kind == "segment" else 0
        names = dict(enumerate(matching.names, start=first))
        volumes = VolumeLoader(dataset.root, PreprocessingPlan(3, (16, 16, 16)), cache_gb=0.5)
        self.context = EvaluationContext(volumes, names, "fp32", {})
        number = {name: place for place, name in names.items()}
        self._truth = dict(label_classes(codes, matching)) if saved.kind == "segment" else {}
        if dataset.info.ignore_label is not None:
            self._truth[dataset.info.ignore_label] = IGNORE
        self._guess = {
            code: number[target]
            for name, own in saved.classes.items()
            for code in own
            if (target := matching.of_model[name])
        }

    def rows(self, case: VolumeRecord) -> list[Row]:
        """Return the rows of a case.

        Raises:
            DataError: if a label map is on another grid, or a case has no predicted class or number.
        """
        if self.saved.kind == "segment":
            return self._label_rows(case)
        own = self.saved.rows.get(case.id, ())
        if not own and self.saved.kind != "detect":
            raise DataError(f"volume {case.id} has no prediction", reason="no_prediction")
        known = {"metric": self.task.metric, "case": case.id, "subject": case.subject}
        if self.saved.kind == "detect":
            return [{**known, **self._boxes(case, own)}]
        if self.saved.kind == "regress":
            return [{**known, "value": number_of(case), "predicted": float(own[0]["value"])}]
        return [{**known, **self._classes(case, own[0])}]

    def _boxes(self, case: VolumeRecord, own: Sequence[Mapping[str, str]]) -> Row:
        """Return the true and the predicted boxes of a case."""
        boxes = stored_boxes(case).tolist()
        truth = [[one.name, *box] for one, box in zip(case.boxes, boxes, strict=True)]
        found: list[list[Any]] = [
            [row["class"], float(row["score"]), *(float(row[end]) for end in _ENDS)] for row in own
        ]
        axis = slice_axis(case.spacing_mm)
        flat = [float(box[axis + 5]) - float(box[axis + 2]) <= 1 for box in found]
        if case.shape[axis] > 1 and found and all(flat):
            raise DataError(f"volume {case.id}: boxes of single slices", reason="boxes_of_single_slices")
        return {"slice": None, "truth": truth, "found": merged_boxes(found, self.matching)}

    def _classes(self, case: VolumeRecord, own: Mapping[str, str]) -> Row:
        """Return the true classes of a case and the probabilities of the evaluated ones."""
        shares = dict.fromkeys(self.matching.names, 0.0)
        for name, target in self.matching.of_model.items():
            if target:
                shares[target] += float(own[f"p_{name}"])
        if self.saved.kind == "multilabel":
            chosen = {self.matching.of_model.get(name) for name in own["classes"].split("|")}
            known = {name: int(value) for name, value in known_labels(case).items() if name in shares}
            found = [name for name in shares if name in chosen]
            return {"labels": known, "found": found, "probabilities": shares}
        correct = max(shares, key=lambda name: shares[name]) == case.target
        row = {"class": case.target, "correct": correct, "probabilities": shares}
        is_graded = self.saved.kind == "ordinal"
        return {**row, **grades_of(shares, str(case.target), self.matching.names)} if is_graded else row

    def figure(self, cases: Sequence[VolumeRecord], title: str) -> bytes | None:
        """Return a PNG with predicted label maps of a few cases; None for other predictions."""
        if self.saved.kind != "segment":
            return None
        rows = [row for case in cases for row in self._figure_rows(case)]
        names = [self.context.names[number] for number in sorted(self.context.names)]
        return panel(rows, ["image", "label", "prediction"], title=title, names=names) if rows else None

    def _label_rows(self, case: VolumeRecord) -> list[Row]:
        assert isinstance(self.task, Segmentation)
        label, truth, predicted = self._maps(case)
        scores = compare_labels(
            torch.from_numpy(predicted)[None],
            torch.from_numpy(truth)[None],
            label.spacing_mm,
            volume=case,
            names=self.context.names,
            final=FinalMetrics(self.task.surface_tolerance_mm, self.task.metrics),
        )
        return [{"metric": self.task.metric, **score.row()} for score in scores]

    def _maps(self, case: VolumeRecord) -> tuple[Image, np.ndarray, np.ndarray]:
        """Return the label file, and class numbers of label and prediction."""
        label = read_recorded(self.root / str(case.label), case.label_sha256)
        truth = _classes(label.array, self._truth)
        if case.id not in self.saved.labels:
            return label, truth, np.zeros_like(truth)
        predicted = read_image(self.saved.labels[case.id])
        off = (
            corner_distance(label.array.shape, predicted.affine, label.affine)
            if predicted.array.shape == label.array.shape
            else np.inf
        )
        if off > _SAME_GRID * min(label.spacing_mm):
            raise DataError(f"volume {case.id}: the prediction is on another grid", reason="grid_differs")
        return label, truth, _classes(predicted.array, self._guess)

    def _figure_rows(self, case: VolumeRecord) -> list[FigureRow]:
        try:
            _, truth, predicted = self._maps(case)
        except DataError:  # reported with the scores
            return []
        image = torch.from_numpy(np.array(read_image(self.root / case.image).array, dtype=np.float32))
        axis = slice_axis(case.spacing_mm)
        shown = np.where(truth == IGNORE, 0, truth)
        return [segmentation_row(image, torch.from_numpy(shown), torch.from_numpy(predicted), axis=axis)]


def _of_medmim(folder: Path, index: _PredictionIndex) -> SavedPredictions:
    kind, predicted = index.model["task"], frozenset(index.predicted)
    channels = tuple(filter(None, index.model.get("channels", "").split(",")))
    known: dict[str, Any] = {"predicted": predicted, "model": index.model["name"], "channels": channels}
    if kind == "segment":
        codes = {name: [int(code)] for code, name in index.classes.items()}
        place = folder / "segmentations"
        names = {volume: inner_path(index.names.get(volume, volume)) for volume in predicted}
        labels = {volume: place / f"{name}.nii.gz" for volume, name in names.items()}
        return SavedPredictions(folder, kind, codes, labels=labels, **known)
    table = folder / _TABLES.get(kind, "classes.csv")
    rows: dict[str, list[dict[str, str]]] = {}
    for row in parse_csv(table.read_text(encoding="utf-8"))[1]:
        rows.setdefault(row["volume"], []).append(row)
    named: dict[str, list[int]] = {name: [] for name in index.classes.values()}
    return SavedPredictions(folder, kind, named, rows=rows, **known)


def _values(paths: Iterable[Path]) -> list[int]:
    return sorted({int(value) for path in paths for value in np.unique(np.rint(read_image(path).array))})


def _classes(array: np.ndarray, number: Mapping[int, int]) -> np.ndarray:
    values: np.ndarray = np.rint(array).astype(np.int64)
    found: np.ndarray = np.zeros_like(values)
    for code, one in number.items():
        found[values == code] = one
    return found
