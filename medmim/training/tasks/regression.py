"""The regression task: a number for each image, such as an age or a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.encoders import Encoder
from medmim.errors import DataError, UsageError
from medmim.shapes import Scalar
from medmim.training.evaluation.figures import plain, to_png
from medmim.training.evaluation.regression_metrics import (
    limits_of_agreement,
    patient_values,
    regression_means,
)
from medmim.training.tasks.base import Cases, EvaluationContext, LogLine, Options, Row
from medmim.training.tasks.classification import ClassScores, WholeImageTask

_FAR = 10.0  # interquartile ranges from the median
_INK, _MUTED = "#1f5fa8", "#999999"


@dataclass(frozen=True)
class Regression(WholeImageTask):
    """One number for each image; 2D networks average over all slices of a volume.

    Attributes:
        quantity: name of the number, for tables.
        dropout: share of pooled features that are dropped in training.
        mirror: average predictions over the mirroring axes of the plan.
    """

    quantity: str = "value"
    dropout: float = 0.2
    mirror: bool = True

    axis: ClassVar[str] = "regression"
    requirement: ClassVar[str] = "a number"
    remedy: ClassVar[str] = "give them with --targets FILE.csv --column NAME"
    metric: ClassVar[str] = "r2"
    selection_metric: ClassVar[str] = "r2"

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise UsageError(f"task_options: expected dropout from 0 to 1, got {self.dropout}")

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether the image has a finite number."""
        return math.isfinite(number_of(volume))

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return no class."""
        return frozenset()

    def names(self, dataset: Dataset, train: Cases, fingerprint: object) -> dict[int, str]:
        """Return the name of the number."""
        if len({number_of(volume) for volume in train}) < 2:
            raise DataError(
                "all training images have the same number: expected at least two", reason="one_class"
            )
        return {0: self.quantity}

    def head(self, encoder: Encoder, train: Cases, context: EvaluationContext, log: LogLine) -> Options:
        """Return the network's options, with mean and standard deviation of the training numbers."""
        options = super().head(encoder, train, context, log)
        numbers = np.array([number_of(volume) for volume in train])
        mean, sd = float(numbers.mean()), float(numbers.std())
        log(f"{self.quantity} of {len(train)} training images: mean {mean:.4g}, sd {sd:.4g}")
        if far := far_numbers(numbers):
            log(
                f"warning: {self.quantity} of some training images is far from all others: "
                f"{', '.join(f'{one:g}' for one in far[:3])}; if that means 'not known', leave the cell empty"
            )
        return {**options, "mean": mean, "sd": sd}

    def target(self, volume: VolumeRecord, names: Mapping[int, str]) -> Tensor:
        """Return the number."""
        return torch.tensor(number_of(volume), dtype=torch.float32)

    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return the smooth L1 loss in standard deviations of the training numbers."""
        errors = (network(batch["image"]).float()[:, 0] - batch["target"]) / network.sd
        return F.smooth_l1_loss(errors, torch.zeros_like(errors))

    def result(self, case: VolumeRecord, scores: ClassScores, context: EvaluationContext) -> Row:
        """Return the true and the predicted number; None for an unknown one."""
        value = number_of(case)
        return {"value": value if math.isfinite(value) else None, "predicted": float(scores)}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return errors, R², Spearman's ρ, bias and limits of agreement over patients."""
        return regression_means(rows)

    def caption(self, case: VolumeRecord, row: Row) -> str:
        """Return the true and the predicted number."""
        return f"{self.quantity} {case.target}; predicted {row['predicted']:.4g}"

    def score_figure(self, rows: Sequence[Row], context: EvaluationContext, *, title: str) -> bytes | None:
        """Return predicted against true numbers, and the plot of Bland and Altman."""
        return regression_figure(rows, quantity=self.quantity, title=title) if rows else None


def number_of(volume: VolumeRecord) -> float:
    """Return the number of an image; NaN if it has none."""
    try:
        return float(volume.target or "nan")
    except ValueError:  # the name of a class
        return math.nan


def far_numbers(numbers: np.ndarray) -> list[float]:
    """Return the numbers that are so far from the median, such as -999 among ages, that they may be codes."""
    low, middle, high = np.percentile(numbers, [25, 50, 75])
    far = np.abs(numbers - middle) > _FAR * (high - low)
    return sorted(set(numbers[far].tolist())) if high > low else []


def regression_figure(rows: Sequence[Row], *, quantity: str, title: str) -> bytes:
    """Draw both plots with one point for each patient and return a PNG."""
    _, truth, predicted = patient_values(rows)
    errors, name = predicted - truth, plain(quantity)
    figure = Figure(figsize=(8, 4), dpi=110, layout="constrained")
    scatter, agreement = figure.subplots(1, 2)
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    scatter.plot(ends, ends, ":", color=_MUTED)
    scatter.plot(truth, predicted, "o", color=_INK, markersize=4)
    scatter.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
    scatter.set_title("patients", fontsize=9)
    agreement.plot((truth + predicted) / 2, errors, "o", color=_INK, markersize=4)
    limits = limits_of_agreement(errors) if len(errors) > 1 else ()
    for height, style in ((errors.mean(), "-"), *((one, "--") for one in limits)):
        agreement.axhline(height, linestyle=style, color=_MUTED)
    agreement.set(xlabel=f"mean of true and predicted {name}", ylabel="predicted - true")
    agreement.set_title("bias and 95 % limits of agreement", fontsize=9)
    figure.suptitle(plain(title), fontsize=10)
    return to_png(figure)
