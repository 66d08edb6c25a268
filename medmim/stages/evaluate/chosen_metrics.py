"""The metrics of an evaluation: those of the task, with the reason, or those that the user chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmim.errors import unknown_name
from medmim.training.evaluation.segmentation_metrics import SEGMENTATION_METRICS

_OF_CLASSES = ("macro_f1", "f1", "accuracy", "balanced_accuracy", "auroc", "ece")
_KNOWN: dict[str, Sequence[str]] = {
    "segment": tuple(SEGMENTATION_METRICS),
    "classify": _OF_CLASSES,
    "ordinal": ("quadratic_kappa", "mean_grade_error", "within_one_grade", *_OF_CLASSES),
    "multilabel": ("macro_auroc", "auroc", "macro_f1", "f1", "ece", "positives", "negatives"),
    "detect": ("ap50", "ap50_95", "ap50_any", "f1", "froc"),
    "regress": ("r2", "mae", "rmse", "spearman", "bias"),
}
_REASONS = {
    "segment": "dice for overlap, hd95_mm and surface_dice for borders, lesion_f1 for what is missed",
    "classify": "macro_f1 counts each class alike, however rare",
    "ordinal": "quadratic_kappa weighs an error by its distance in grades",
    "multilabel": "macro_auroc needs no threshold and counts each class alike",
    "detect": "ap50 needs no threshold; a box counts from an overlap of 0.5",
    "regress": "r2 compares the error with the variance of the true numbers",
}


@dataclass(frozen=True)
class ChosenMetrics:
    """The metrics that an evaluation reports.

    Attributes:
        main: metric of figures, subgroups and worst patients.
        names: chosen metrics in the order of the user; empty: all of the task.
    """

    kind: str
    main: str
    names: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Which metrics are reported, and why."""
        if not self.names:
            return f"those of {self.kind}: {_REASONS[self.kind]}; choose with --metrics"
        added = "" if self.main in self.names else f"{self.main} (always reported), "
        return f"chosen: {added}{', '.join(self.names)}"

    def select(self, scores: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the rows of the main metric, then of the others in their order, with those of each class."""
        if not self.names:
            return list(scores)
        order = dict.fromkeys((self.main, *self.names))
        return [row for name in order for row in scores if self._metric_of(str(row["metric"])) == name]

    def _metric_of(self, key: str) -> str | None:
        """Return the metric of a key such as `patient_f1_glioma`: the longest name that it begins with."""
        plain = key.removeprefix("patient_")
        known = [name for name in _KNOWN[self.kind] if plain == name or plain.startswith(f"{name}_")]
        return max(known, key=len, default=None)


def choose_metrics(kind: str, main: str, names: Sequence[str]) -> ChosenMetrics:
    """Return the metrics of an evaluation, given the task's main metric and what the user chose.

    The first chosen metric of label maps is the main one if it is from 0 to 1 and always defined.

    Raises:
        UsageError: for a metric that the task does not have.
    """
    for name in names:
        if name not in _KNOWN[kind]:
            raise unknown_name(f"metric of {kind}", name, _KNOWN[kind])
    first = SEGMENTATION_METRICS.get(names[0]) if names and kind == "segment" else None
    return ChosenMetrics(kind, names[0] if first and first.is_tested else main, tuple(dict.fromkeys(names)))
