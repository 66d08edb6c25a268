"""Scores of label maps of any tool against labels, case by case and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medmim.data.dataset.splits import patient_digest
from medmim.data.formats.labels import fit_label, load_label
from medmim.data.ingest.layout_rules import SubjectRule
from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import (
    MISSING,
    PredictionSet,
    Progress,
    RejectedCase,
    Row,
    ScoredPredictions,
    patients,
    problem_notes,
)
from medmim.stages.compare_predictions.label_folders import (
    LabelFolder,
    names_of,
    read_label,
    read_labels,
    read_predictions,
)
from medmim.training.evaluation.segmentation_metrics import (
    SEGMENTATION_METRICS,
    SegmentationPair,
    known_metrics,
)

_DEFAULT = ("dice", "surface_dice", "hd95_mm", "volume_error_ml")
_LESIONS = ("lesion_f1", "lesion_sensitivity", "lesion_precision")


@dataclass(frozen=True)
class MapOptions:
    """How label maps are scored.

    Attributes:
        metrics: the first is tested, the others are described; empty: by the labels.
        tolerance_mm: of surface Dice.
        subjects: the user's rule for patients.
    """

    metrics: tuple[str, ...] = ()
    tolerance_mm: float = 1.0
    subjects: SubjectRule = field(default_factory=SubjectRule)


def score_label_maps(
    sets: Sequence[PredictionSet], labels: Path, options: MapOptions, progress: Progress
) -> ScoredPredictions:
    """Score folders of label maps against a folder of labels.

    A case without a prediction, or whose prediction is on another grid or cannot be read, scores 0 in every
    class. The grid is that of the label; flipped and permuted axes are aligned, nothing is resampled.

    Raises:
        UsageError: for unknown metrics, or folders without label maps.
        DataError: for labels that cannot be read, or predictions whose values do not fit those of the labels.
    """
    truth, notes = read_labels(labels, progress)
    metrics, why = _chosen(options, truth)
    subjects, note = patients(list(truth.files), options.subjects)
    notes += [why, note]
    rows: list[tuple[Row, ...]] = []
    problems: list[RejectedCase] = []
    for one in sets:
        codes, own, said = read_predictions(one, truth, named=names_of(labels))
        notes += said
        scored = _Scorer(one, truth, codes, metrics, options.tolerance_mm)
        found: list[Row] = []
        for number, (case, path) in enumerate(truth.files.items(), start=1):
            progress(one.tool, number, len(truth.files))
            each, reason = scored.case(path, own.get(case))
            problems += [RejectedCase(one.tool, case, reason)] if reason else []
            found += [
                {"metric": metrics[0], "case": patient_digest(case), "patient": subjects[case], **row}
                for row in each
            ]
        rows.append(tuple(found))
    notes += problem_notes(sets, problems, len(truth.files))
    notes += ["a case counted as wrong scores 0 in every class"] if problems else []
    described = {SEGMENTATION_METRICS[name].title: name for name in metrics[1:] if name != "volume_error_ml"}
    tables = {"Volumes (Bland–Altman)": bland_altman(sets, rows)} if "volume_error_ml" in metrics else {}
    return ScoredPredictions(tuple(rows), described, tuple(problems), tuple(notes), tables)


@dataclass(frozen=True)
class _Scorer:
    """Scores the cases of one set of predictions."""

    predictions: PredictionSet
    truth: LabelFolder
    codes: Mapping[int, int]
    metrics: Sequence[str]
    tolerance_mm: float

    def case(self, label: Path, prediction: Path | None) -> tuple[list[Row], str]:
        """Return a row for each class, and why the case counts as wrong; empty where it does not."""
        truth = read_label(label)
        predicted, reason = np.zeros_like(truth.array), MISSING if prediction is None else ""
        if prediction is not None:
            try:
                predicted = fit_label(load_label(prediction, spacing_mm=1.0).image, truth).array
            except DataError as error:
                reason = error.reason
        known = ~np.isin(truth.array, self.truth.ignored)
        rows: list[Row] = []
        for code, name in self.truth.classes.items():
            own = [value for value, meant in self.codes.items() if meant == code]
            masks = np.isin(predicted, own) & known, (truth.array == code) & known
            pair = SegmentationPair(*masks, truth.spacing_mm, self.tolerance_mm)
            voxel_ml = float(np.prod(truth.spacing_mm)) / 1000
            volumes = [float(mask.sum()) * voxel_ml for mask in masks]
            row = {"label": name, "predicted_ml": volumes[0], "volume_ml": volumes[1], "hd95_mm": None}
            rows.append({**row, **{key: _score(key, pair, wrong=bool(reason)) for key in self.metrics}})
        return rows, reason


def _score(metric: str, pair: SegmentationPair, *, wrong: bool) -> float | None:
    """Return the score of a class; a case that counts as wrong is an empty prediction, and 0 where tested."""
    chosen = SEGMENTATION_METRICS[metric]
    return 0.0 if wrong and chosen.is_tested else chosen.measure(pair)


def _chosen(options: MapOptions, truth: LabelFolder) -> tuple[tuple[str, ...], str]:
    """Return the metrics, the tested one first, and the note with the reason."""
    several = [f"{name} ({count:g})" for name, count in truth.lesions.items() if count > 1]
    metrics = known_metrics(options.metrics) or (*_DEFAULT, *(_LESIONS if several else ()))
    first = SEGMENTATION_METRICS[metrics[0]]
    if not first.is_tested:
        known = ", ".join(name for name, metric in SEGMENTATION_METRICS.items() if metric.is_tested)
        raise UsageError(
            f"--metrics: expected a first metric, which is tested, from 0 to 1 and always defined ({known}); "
            f"got {metrics[0]}"
        )
    why = f"{first.title} is tested, the other metrics are described"
    if "surface_dice" in metrics:
        why += f"; surface Dice within {options.tolerance_mm:g} mm"
    if several and not options.metrics:
        why += f"; lesion metrics, because a label has several components of {', '.join(several)}"
    return metrics, f"{why}; choose with --metrics"


def bland_altman(sets: Sequence[PredictionSet], rows: Sequence[Sequence[Row]]) -> list[dict[str, str]]:
    """Return bias and limits of agreement of volumes (Bland and Altman, Lancet 1986), by tool and class."""
    table = []
    tools = dict.fromkeys(one.tool for one in sets)
    for tool in tools:
        own = [row for one, found in zip(sets, rows, strict=True) if one.tool == tool for row in found]
        for label in dict.fromkeys(str(row["label"]) for row in own):
            chosen = [row for row in own if row["label"] == label]
            errors = np.array([row["predicted_ml"] - row["volume_ml"] for row in chosen])
            bias, sd = float(errors.mean()), float(errors.std(ddof=1)) if len(errors) > 1 else float("nan")
            table.append(
                {
                    "tool": tool,
                    "class": label,
                    "cases": str(len(chosen)),
                    "mean label ml": f"{np.mean([row['volume_ml'] for row in chosen]):.3f}",
                    "bias ml": f"{bias:+.3f}",
                    "limits of agreement ml": f"{bias - 1.96 * sd:+.3f} … {bias + 1.96 * sd:+.3f}",
                }
            )
    return table
