"""The ordinal task: one of several ordered grades for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.errors import DataError, UsageError
from medmim.shapes import Scalar
from medmim.training.evaluation.classification_metrics import grades_of, ordinal_means
from medmim.training.tasks.base import Cases, EvaluationContext, Row
from medmim.training.tasks.classification import Classification, ClassScores

_MOST = 20  # different numbers above which a column counts as a measurement


@dataclass(frozen=True)
class Ordinal(Classification):
    """One of several ordered grades for each image, such as 0 to 4: a far error costs more than a near one.

    Attributes:
        order: grades from the lowest to the highest, such as `[none, mild, severe]`; empty: the grades are
            numbers.
        balance: 1: every grade is sampled equally often; 0: as often as it occurs.
        label_smoothing: share of the target that is distributed over all grades.
        mixup: parameter of Beta(mixup, mixup) for mixing two images (Zhang et al., ICLR 2018); 0: none.
        distance: weight of the squared earth mover's distance (Hou et al., arXiv 1611.05916), which is added
            to the cross entropy.
        dropout: share of pooled features that are dropped in training.
        mirror: average predictions over the mirroring axes of the plan.
    """

    balance: float = 0.5
    label_smoothing: float = 0.0
    mixup: float = 0.0
    dropout: float = 0.2
    mirror: bool = True
    order: Sequence[Any] = ()
    distance: float = 1.0

    axis: ClassVar[str] = "ordinal classification"
    requirement: ClassVar[str] = "a grade"
    metric: ClassVar[str] = "quadratic_kappa"
    selection_metric: ClassVar[str] = "quadratic_kappa"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance < 0 or len(set(self.order)) != len(self.order):
            raise UsageError(
                "task_options: expected distance of 0 or more and every grade of order once, got "
                f"{self.distance} and {list(self.order)}"
            )

    def names(self, dataset: Dataset, train: Cases, fingerprint: object) -> dict[int, str]:
        """Return the grades of the dataset from the lowest to the highest.

        Raises:
            DataError: if the training images have one grade only.
            UsageError: if the order of the grades is unknown.
        """
        super().names(dataset, train, fingerprint)
        found = sorted({str(volume.target) for volume in dataset.volumes if volume.target is not None})
        if self.order:
            order = [str(grade) for grade in self.order]
            if unknown := sorted(set(found) - set(order)):
                raise UsageError(
                    f"task_options.order: expected every grade of the data, got {', '.join(order)} without "
                    f"{', '.join(unknown)}"
                )
            return dict(enumerate(order))
        numbers = {name: _number(name) for name in found}
        if not all(map(math.isfinite, numbers.values())) or len(set(numbers.values())) < len(found):
            raise UsageError(
                f"grades: expected different numbers or their order, got {', '.join(found[:_MOST])}; give it "
                "from the lowest to the highest: --set task_options.order=[none,mild,severe]"
            )
        if len(found) > _MOST:
            raise DataError(
                f"grades: expected at most {_MOST} different numbers, got {len(found)}; train measurements "
                "with `medmim finetune regress`, or give --set task_options.order=[…]",
                reason="too_many_grades",
            )
        return dict(enumerate(sorted(found, key=lambda name: numbers[name])))

    def cost(self, scores: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"]) -> Scalar:
        """Return cross entropy and the squared earth mover's distance between the cumulated distributions."""
        truth = F.one_hot(target, scores.shape[1]).to(scores.dtype)
        gaps = (scores.softmax(dim=1) - truth).cumsum(dim=1)
        return super().cost(scores, target) + self.distance * gaps.square().sum(dim=1).mean()

    def result(self, case: VolumeRecord, scores: ClassScores, context: EvaluationContext) -> Row:
        """Return the probabilities of the grades, and both places in their order where the grade is known."""
        names: list[str] = [context.names[number] for number in sorted(context.names)]
        row = super().result(case, scores, context)
        known = row["class"] in names
        return {**row, **(grades_of(row["probabilities"], row["class"], names) if known else {})}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return the metrics of grades and those of classification."""
        graded = [row for row in rows if "grade" in row]
        return {**ordinal_means(graded), **super().aggregate(rows, context)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
