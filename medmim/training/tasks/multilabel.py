"""The multi-label task: a probability for each class of an image, as classes do not exclude each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.encoders import Encoder
from medmim.errors import DataError, counted
from medmim.shapes import Scalar
from medmim.training.evaluation.figures import plain, to_png
from medmim.training.evaluation.metric_intervals import Statistic, Weights
from medmim.training.evaluation.multilabel_metrics import (
    THRESHOLD,
    best_threshold,
    columns_of,
    label_means,
    shared_temperature,
    with_temperature,
)
from medmim.training.tasks.base import Cases, EvaluationContext, LogLine, Options, Row
from medmim.training.tasks.classification import Classification, ClassScores

_UNKNOWN = -1.0
_NAMED = 8  # classes with a name in a figure


@dataclass(frozen=True)
class MultiLabel(Classification):
    """Classes of an image that do not exclude each other, from `targets` of the manifest.

    A class whose value is uncertain or not stated counts neither in the loss nor in the metrics of the image.

    Attributes:
        balance: 1: images of rare classes are sampled as often as others; 0: as often as they occur.
        label_smoothing: share of the target that is replaced by one half.
        mixup: parameter of Beta(mixup, mixup) for mixing two images (Zhang et al., ICLR 2018); 0: none.
        dropout: share of pooled features that are dropped in training.
        mirror: average predictions over the mirroring axes of the plan.
    """

    balance: float = 0.5
    label_smoothing: float = 0.0
    mixup: float = 0.0
    dropout: float = 0.2
    mirror: bool = True

    axis: ClassVar[str] = "multi-label classification"
    requirement: ClassVar[str] = "a known class"
    remedy: ClassVar[str] = "ingest them with a table of several classes per image"
    metric: ClassVar[str] = "macro_auroc"
    selection_metric: ClassVar[str] = "macro_auroc"

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether a class of the image is known."""
        return bool(known_labels(volume))

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return the classes that are present."""
        return frozenset(name for name, value in known_labels(volume).items() if value)

    def names(self, dataset: Dataset, train: Cases, fingerprint: object) -> dict[int, str]:
        """Return the classes that a training image shows, in alphabetical order."""
        found = sorted({name for volume in train for name in self.classes_of(volume)})
        if not found:
            raise DataError("no training image shows a class: expected at least one", reason="one_class")
        return dict(enumerate(found))

    def head(self, encoder: Encoder, train: Cases, context: EvaluationContext, log: LogLine) -> Options:
        """Return the network's options; logs how many training images show each class."""
        names = list(context.names.values())
        log(f"training images (present/absent): {_counted(train, names)}")
        missing = sorted({name for volume in train for name in volume.targets} - set(names))
        if missing:
            log(f"warning: no training image shows {', '.join(missing)}: not trained")
        return super().head(encoder, train, context, log)

    def target(self, volume: VolumeRecord, names: Mapping[int, str]) -> Tensor:
        """Return 1, 0 or, if it is unknown, -1 for each class."""
        known = known_labels(volume)
        return torch.tensor([known.get(name, _UNKNOWN) for name in names.values()])

    def sampling_weights(self, train: Cases) -> list[float] | None:
        """Return higher weights for images of rare classes."""
        shown = [self.classes_of(volume) or {""} for volume in train]
        counts = Counter(name for names in shown for name in names)
        return [min(counts[name] for name in names) ** -self.balance for names in shown]

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Scalar:
        """Return the mean binary cross entropy over the known classes of the batch."""
        images, target = batch["image"], batch["target"]
        known = target != _UNKNOWN
        if self.mixup:
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
            order = torch.randperm(len(images), device=images.device)
            images = share * images + (1 - share) * images[order]
            target, known = share * target + (1 - share) * target[order], known & known[order]
        smooth = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(network(images).float(), smooth, reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)

    def result(self, case: VolumeRecord, scores: ClassScores, context: EvaluationContext) -> Row:
        """Return the known classes, the predicted classes, and the probability of each class."""
        thresholds, temperature = context.tuned.get("thresholds", {}), context.tuned.get("temperature", 1.0)
        names = [context.names[number] for number in sorted(context.names)]
        shares = dict(zip(names, torch.sigmoid(scores / temperature).tolist(), strict=True))
        return {
            "labels": {name: int(value) for name, value in known_labels(case).items() if name in shares},
            "found": [name for name in names if shares[name] >= thresholds.get(name, THRESHOLD)],
            "probabilities": shares,
        }

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return the temperature that calibrates all probabilities, and each class's threshold of best F1."""
        columns = columns_of(rows, list(context.names.values()))
        temperature = shared_temperature(columns)
        thresholds = {
            name: best_threshold(with_temperature(column, temperature)) for name, column in columns.items()
        }
        return {"temperature": temperature, "thresholds": thresholds}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return AUROC, F1 and number of cases of each class, the macro means and the calibration error."""
        columns = columns_of(rows, list(context.names.values()))
        return label_means(columns, np.ones(len(rows))) if rows else {}

    def weighted_statistic(self, rows: Sequence[Row], context: EvaluationContext) -> Statistic:
        """Return a function that computes `aggregate` from the multiplicity of each patient (sorted)."""
        columns = columns_of(rows, list(context.names.values()))
        _, patient = np.unique([row["subject"] for row in rows], return_inverse=True)

        def means(weights: Weights) -> dict[str, float]:
            return label_means(columns, weights[patient])

        return means

    def unscored(self, cases: Cases, names: Iterable[str]) -> list[str]:
        """Return a line for each class that no case shows."""
        shown = {name for case in cases for name in self.classes_of(case)}
        return [
            f"class {name}: none of {counted(sum(name in known_labels(case) for case in cases), 'image')} "
            "with a known value shows it: it has no score and is left out of the means"
            for name in names
            if name not in shown
        ]

    def caption(self, case: VolumeRecord, row: Row) -> str:
        """Return the true and the predicted classes."""
        true = ", ".join(sorted(self.classes_of(case)))
        return f"{true or 'none'}; predicted {predicted_words(row)}"

    def score_figure(self, rows: Sequence[Row], context: EvaluationContext, *, title: str) -> bytes | None:
        """Return ROC curves, and AUROC and F1 of each class."""
        return multilabel_figure(rows, list(context.names.values()), title=title) if rows else None


def known_labels(volume: VolumeRecord) -> dict[str, float]:
    """Return 1 for present and 0 for absent classes of an image, without uncertain and unstated ones."""
    return {name: value for name, value in volume.targets.items() if value in (0.0, 1.0)}


def predicted_words(row: Row) -> str:
    """Return the predicted classes of a row with their probabilities, the most probable first."""
    shares = row["probabilities"]
    ordered = sorted(row["found"], key=lambda name: -shares[name])
    return ", ".join(f"{name} {shares[name]:.0%}" for name in ordered) or "none"


def multilabel_figure(rows: Sequence[Row], names: Sequence[str], *, title: str) -> bytes:
    """Draw ROC curves and the scores of each class with its number of cases; return a PNG."""
    columns, ones = columns_of(rows, names), np.ones(len(rows))
    figure = Figure(figsize=(10, max(4.0, 1.5 + 0.3 * len(names))), dpi=110, layout="constrained")
    curves, bars = figure.subplots(1, 2)
    curves.plot([0, 1], [0, 1], ":", color="#999999")
    words = []
    for height, (name, one) in enumerate(columns.items()):
        positives, negatives = one.counts(ones)
        words.append(f"{plain(name)} ({positives:g} of {positives + negatives:g})")
        bars.plot([one.auroc(ones)], [height], "o", color="#1f5fa8")
        bars.plot([one.f1(ones)], [height], "x", color="#d1495b")
        if positives and negatives:
            known = np.isfinite(one.truth)
            false, true, _ = roc_curve(one.truth[known], one.shares[known])
            curves.plot(false, true, linewidth=1.2, label=plain(name) if len(names) <= _NAMED else None)
    if curves.get_legend_handles_labels()[1]:
        curves.legend(fontsize=8, loc="lower right")
    curves.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
    bars.set_yticks(range(len(words)), words, fontsize=8)
    bars.set(xlim=(-0.03, 1.03), ylim=(len(words) - 0.5, -0.5), xlabel="● AUROC   × F1")
    bars.set_title("class (images that show it, of those with a known value)", fontsize=9)
    figure.suptitle(plain(title), fontsize=10)
    return to_png(figure)


def _counted(volumes: Cases, names: Sequence[str]) -> str:
    values = {name: [known_labels(one).get(name) for one in volumes] for name in names}
    return ", ".join(f"{name} {own.count(1.0)}/{own.count(0.0)}" for name, own in values.items())
