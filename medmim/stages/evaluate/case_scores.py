"""Scores of the cases of another dataset by a trained model, whose classes are matched with the dataset's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.preprocess import VolumeLoader
from medmim.errors import UsageError
from medmim.shapes import Features
from medmim.stages.evaluate.class_matching import ClassMatching
from medmim.stages.unlike_training_data import with_modality
from medmim.training.evaluation.detection_metrics import UNCHOSEN
from medmim.training.tasks.base import EvaluationContext, Row, Task
from medmim.training.tasks.detection_inference import best_of_each_name
from medmim.training.tasks.multilabel import known_labels
from medmim.training.tasks.trained_model import TrainedModel


@runtime_checkable
class CaseScorer(Protocol):
    """Scores cases whose annotations carry the evaluated classes."""

    task: Task
    context: EvaluationContext

    def rows(self, case: VolumeRecord) -> list[Row]:
        """Return the rows of a case, as `Task.evaluate` returns them."""

    def figure(self, cases: Sequence[VolumeRecord], title: str) -> bytes | None:
        """Return a PNG with predictions of a few cases."""


def classes_of_data(kind: str, dataset: Dataset, cases: Sequence[VolumeRecord]) -> dict[str, list[int]]:
    """Return the classes of the annotations, with the label values of each for segmentations."""
    found: dict[str, list[int]] = {}
    if kind == "segment":
        for code in dataset.info.label_codes:
            if code not in (0, dataset.info.ignore_label):
                found.setdefault(dataset.info.label_names.get(code, f"label_{code}"), []).append(code)
        return found
    if kind == "regress":
        return {}
    if kind in ("classify", "ordinal"):
        return {name: [] for name in sorted({str(case.target) for case in cases})}
    if kind == "multilabel":
        return {name: [] for name in sorted({name for case in cases for name in known_labels(case)})}
    return {name: [] for name in sorted({box.name for case in cases for box in case.boxes})}


def with_evaluated_classes(
    kind: str, cases: Sequence[VolumeRecord], of_data: Mapping[str, str | None]
) -> list[VolumeRecord]:
    """Return cases whose class and boxes carry the evaluated names, without those of other classes."""
    if kind in ("classify", "ordinal"):
        renamed = [(case, of_data[str(case.target)]) for case in cases]
        return [case.model_copy(update={"target": name}) for case, name in renamed if name]
    if kind == "multilabel":
        return [_with_evaluated_labels(case, of_data) for case in cases]
    if kind in ("regress", "segment"):
        return list(cases)
    boxes = [[(box, of_data[box.name]) for box in case.boxes] for case in cases]
    return [
        case.model_copy(
            update={"boxes": tuple(box.model_copy(update={"name": name}) for box, name in own if name)}
        )
        for case, own in zip(cases, boxes, strict=True)
    ]


def _with_evaluated_labels(case: VolumeRecord, of_data: Mapping[str, str | None]) -> VolumeRecord:
    """Return a case with the evaluated classes: present if any source class is, absent if all are."""
    values: dict[str, list[float]] = {}
    for name, target in of_data.items():
        if target:
            values.setdefault(target, []).append(known_labels(case).get(name, math.nan))
    found = {name: 1.0 if 1.0 in own else sum(own) for name, own in values.items()}
    return case.model_copy(
        update={"targets": {name: value for name, value in found.items() if math.isfinite(value)}}
    )


def label_classes(codes: Mapping[str, Sequence[int]], matching: ClassMatching) -> tuple[tuple[int, int], ...]:
    """Return pairs of a label value of the data and the number of its evaluated class, from 1."""
    number = {name: place for place, name in enumerate(matching.names, start=1)}
    return tuple(
        (code, number[target])
        for name, own in codes.items()
        for code in own
        if (target := matching.of_data[name]) is not None
    )


class ModelScorer:
    """Scores cases by the predictions of a model, see `CaseScorer`."""

    def __init__(
        self,
        trained: TrainedModel,
        dataset: Dataset,
        codes: Mapping[str, Sequence[int]],
        matching: ClassMatching,
    ) -> None:
        self.trained = trained
        self.matching = matching
        self.task = trained.task
        first = 1 if trained.kind == "segment" else 0
        if trained.plan.regions and len(matching.names) < len(trained.names):
            raise UsageError(
                "--label-map: the regions of the model need each of its classes; expected a class of the "
                "data for each, or evaluate the labels that `medmim predict` writes with --predictions"
            )
        if trained.kind == "multilabel" and len(matching.names) < sum(map(bool, matching.of_model.values())):
            raise UsageError(
                "--label-map: several classes of the model were paired with one of the data, but their "
                "probabilities cannot be added; expected one class of the model for each"
            )
        context = trained.context(dataset.root)
        if trained.kind == "segment":
            plan = replace(
                trained.plan,
                label_classes=label_classes(codes, matching),
                ignore_label=dataset.info.ignore_label,
            )
            context = replace(context, volumes=VolumeLoader(dataset.root, plan, cache_gb=0.5))
        names = dict(enumerate(matching.names, start=first))
        self._own_context = context
        tuned = context.tuned if trained.plan.regions else _tuned(context.tuned, matching)
        self.context = replace(context, names=names, tuned=tuned)
        self.network: nn.Module = trained.network
        if trained.kind != "detect" and matching.renamed and not trained.plan.regions:
            self.network = MergedClasses(trained.network, self._members(first)).eval()

    def rows(self, case: VolumeRecord) -> list[Row]:
        """Return the rows of a case."""
        known = with_modality(self.trained, case)
        if self.trained.kind != "detect":
            return self.task.evaluate(self.network, [known], self.context, final=True)
        rows = self.task.evaluate(self.network, [known], self._own_context, final=True)
        return [{**row, "found": merged_boxes(row["found"], self.matching)} for row in rows]

    def figure(self, cases: Sequence[VolumeRecord], title: str) -> bytes | None:
        """Return a PNG with predictions of a few cases."""
        context = self.context
        if self.trained.kind == "detect":  # boxes of merged classes under the evaluated names
            of_model = self.matching.of_model
            names = {number: of_model[name] or name for number, name in self.trained.names.items()}
            context = replace(self._own_context, names=names, tuned=self.context.tuned)
        known = [with_modality(self.trained, case) for case in cases]
        return self.task.figure(self.network, known, context, title=title)

    def _members(self, first: int) -> list[list[int]]:
        """Return the model's class numbers of each evaluated class; others belong to the background."""
        of_model, targets = self.matching.of_model, [*([None] if first else []), *self.matching.names]
        names = self.trained.names.items()
        own = [[number for number, name in names if of_model[name] == target] for target in targets]
        return [[0, *own[0]], *own[1:]] if first else own


class MergedClasses(nn.Module):
    """A network whose logits of merged classes are combined, so that softmax adds their probabilities."""

    def __init__(self, network: nn.Module, members: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.network = network
        self.members = members

    def forward(self, images: Tensor) -> Features:
        """Return logits, (batch, classes, *space)."""
        scores: Tensor = self.network(images).float()
        return torch.stack([scores[:, list(own)].logsumexp(dim=1) for own in self.members], dim=1)


def merged_boxes(found: Sequence[Sequence[Any]], matching: ClassMatching) -> list[list[Any]]:
    """Return boxes with evaluated names; of overlapping boxes of merged classes, the best remains."""
    renamed = [[target, *box] for name, *box in found if (target := matching.of_model[str(name)])]
    values = np.array([box[1:] for box in renamed], dtype=np.float64).reshape(len(renamed), -1)
    best = best_of_each_name(values[:, 1:], values[:, :1].ravel(), [str(box[0]) for box in renamed])
    return sorted((renamed[place] for place in best), key=lambda box: -float(box[1]))


def _tuned(tuned: Mapping[str, Any], matching: ClassMatching) -> dict[str, Any]:
    """Return tuned values under the evaluated names: the lowest threshold of merged classes."""
    found = dict(tuned)
    sources: dict[str, list[str]] = {}
    for name, target in matching.of_model.items():
        if target:
            sources.setdefault(target, []).append(name)
    if thresholds := tuned.get("thresholds"):
        found["thresholds"] = {
            target: min(thresholds.get(name, UNCHOSEN) for name in own) for target, own in sources.items()
        }
    if rules := tuned.get("postprocessing"):
        single = {target: own[0] for target, own in sources.items() if len(own) == 1}
        found["postprocessing"] = {target: rules[one] for target, one in single.items() if one in rules}
    return found
