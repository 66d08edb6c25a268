"""Scores of segmented volumes: the segmentation metrics of every case and class, and their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.finite_checks import load_finite
from medmim.data.loading.foreground_sampling import IGNORE
from medmim.data.loading.preprocess import PreprocessedVolume, VolumeLoader, class_indices
from medmim.data.loading.preprocessing_plan import Regions, target_spacing
from medmim.data.loading.recorded_files import read_recorded
from medmim.training.evaluation.inference import class_groups, labels_of, labels_on_grid
from medmim.training.evaluation.postprocessing import Rules, apply_postprocessing, components_of
from medmim.training.evaluation.segmentation_metrics import (
    SEGMENTATION_METRICS,
    SegmentationPair,
    dice,
    hd95_mm,
    lesion_f1,
    surface_dice,
)

Labels3d = Int[Tensor, "1 x y z"]


@dataclass(frozen=True)
class PartialLabels:
    """Classes of a case that may be missing in its label although they are in the image.

    Attributes:
        unannotated: class indices that nobody annotated in the case.
        annotated_if_present: class indices that are not annotated where the label does not contain them.
    """

    unannotated: frozenset[int] = frozenset()
    annotated_if_present: frozenset[int] = frozenset()

    def unknown(self, present: Collection[int]) -> frozenset[int]:
        """Return the classes whose absence from a label means nothing, given the classes that it contains."""
        return self.unannotated | self.annotated_if_present.difference(present)


COMPLETE = PartialLabels()


@dataclass(frozen=True)
class FinalMetrics:
    """Metrics of tests beside Dice.

    Attributes:
        tolerance_mm: of surface Dice.
        further: names in `segmentation_metrics`, beside distances, surface Dice and lesion F1.
    """

    tolerance_mm: float = 1.0
    further: Sequence[str] = ()


FINAL = FinalMetrics()


@dataclass(frozen=True)
class CaseScore:
    """Metrics of one class or region in one volume.

    Attributes:
        dice, hd95_mm, surface_dice, lesion_f1: metrics of the table in `segmentation_metrics`; all but Dice
            are None if not computed.
        volume_ml, predicted_ml: volume of label and prediction.
        dice_any: Dice of all classes merged, such as a whole tumour; the same in every row of a case; None if
            a class was not annotated.
        further: other metrics of the table, by name.
        components: volume and overlap in ml of predicted components, for choosing the postprocessing; None if
            not computed.
    """

    case: str
    subject: str
    label: str
    dice: float
    hd95_mm: float | None
    surface_dice: float | None
    volume_ml: float
    predicted_ml: float
    dice_any: float | None
    lesion_f1: float | None = None
    further: Mapping[str, float | None] = field(default_factory=dict)
    components: list[list[float]] | None = None

    def row(self) -> dict[str, Any]:
        """Return a row of JSON values, without components that were not computed."""
        row = asdict(self)
        row |= row.pop("further")
        return row if self.components is not None else {key: row[key] for key in row if key != "components"}


def score_volume(
    probabilities_of: Callable[[PreprocessedVolume], Tensor],
    volume: VolumeRecord,
    volumes: VolumeLoader,
    *,
    names: Mapping[int, str],
    final: FinalMetrics | None,
    rules: Rules = MappingProxyType({}),
    partial: PartialLabels = COMPLETE,
) -> list[CaseScore]:
    """Segment a volume and compare it with its label on the label's own grid, as `compare_labels`.

    If `final` is None, components are computed instead of distances.
    """
    prepared, regions = load_finite(volume, volumes), volumes.plan.regions
    probabilities = probabilities_of(prepared)
    if target_spacing(volume, volumes.plan) is None and volumes.plan.view == "patch":
        label = prepared.label
        assert label is not None  # only labelled volumes are scored
        affine, prediction = prepared.affine, labels_of(probabilities, regions).unsqueeze(0)
    else:
        label, affine = _native_label(volumes, volume)
        found = labels_on_grid(probabilities, prepared.affine, label.shape[1:], affine, regions)
        prediction = found.long().unsqueeze(0)
    if rules:
        voxel_ml = math.prod(_spacing(affine)) / 1000
        cleaned = apply_postprocessing(prediction[0].numpy(), names, rules, voxel_ml, regions)
        prediction = torch.from_numpy(cleaned).unsqueeze(0)
    return compare_labels(
        prediction,
        label.long(),
        _spacing(affine),
        volume=volume,
        names=names,
        final=final,
        regions=regions,
        partial=partial,
    )


def compare_labels(
    prediction: Labels3d,
    label: Labels3d,
    spacing_mm: Sequence[float],
    *,
    volume: VolumeRecord,
    names: Mapping[int, str],
    final: FinalMetrics | None = FINAL,
    regions: Regions | None = None,
    partial: PartialLabels = COMPLETE,
) -> list[CaseScore]:
    """Compare a prediction with a label of the same shape for each region, or each class but background.

    Values without a name count as background, voxels labelled `IGNORE` are left out, and so are regions and
    classes with a class that was not annotated.
    """
    known = (label != IGNORE)[0].numpy()
    predicted, truth = (one[0].numpy() for one in (prediction, label))
    whole = [np.isin(one, sorted(names)) & known for one in (predicted, truth)]
    unknown = partial.unknown(set(np.unique(truth).tolist()))
    whole_dice = None if unknown else dice(SegmentationPair(*whole))
    voxel_ml = math.prod(spacing_mm) / 1000
    scores = []
    for name, group in class_groups(names, regions).items():
        if unknown.intersection(group):
            continue
        masks = np.isin(predicted, group) & known, np.isin(truth, group) & known
        pair = SegmentationPair(*masks, spacing_mm, final.tolerance_mm if final else 0.0)
        scores.append(
            CaseScore(
                case=volume.id,
                subject=volume.subject,
                label=name,
                dice=dice(pair),
                hd95_mm=hd95_mm(pair) if final else None,
                surface_dice=surface_dice(pair) if final else None,
                lesion_f1=lesion_f1(pair) if final else None,
                volume_ml=float(pair.true.sum()) * voxel_ml,
                predicted_ml=float(pair.predicted.sum()) * voxel_ml,
                dice_any=whole_dice,
                further=_further(pair, final.further) if final else {},
                components=None if final else components_of(*masks, voxel_ml),
            )
        )
    return scores


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return means over patients of means over their cases, for all classes together and each class.

    `dice_present` omits classes that are empty in label and prediction: if cases have one of many classes, a
    network that predicts nothing would otherwise score well on the others.
    """
    names = sorted({row["label"] for row in rows})
    means: dict[str, float] = {}
    for key in [name for name in SEGMENTATION_METRICS if any(name in row for row in rows)]:
        means[key] = _over_patients(rows, key)
        for name in names if len(names) > 1 else []:
            means[f"{key}_{name}"] = _over_patients([row for row in rows if row["label"] == name], key)
    there = [row for row in rows if row["volume_ml"] or row["predicted_ml"]]
    means["dice_present"] = _over_patients(there, "dice")
    if len(names) > 1:
        means["dice_any"] = _over_patients(rows, "dice_any")
    return {key: value for key, value in means.items() if math.isfinite(value)}


def _native_label(volumes: VolumeLoader, volume: VolumeRecord) -> tuple[Tensor, np.ndarray]:
    stored = read_recorded(volumes.root / str(volume.label), volume.label_sha256)
    values = torch.from_numpy(np.rint(stored.array).astype(np.int64)).unsqueeze(0)
    return class_indices(values, volumes.plan), stored.affine


def _spacing(affine: np.ndarray) -> tuple[float, ...]:
    return tuple(float(length) for length in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def _further(pair: SegmentationPair, metrics: Sequence[str]) -> dict[str, float | None]:
    """Return the metrics that are no fields of `CaseScore`."""
    fields = CaseScore.__dataclass_fields__
    return {key: SEGMENTATION_METRICS[key].measure(pair) for key in metrics if key not in fields}


def _over_patients(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        if row.get(key) is not None:
            by_patient.setdefault(row["subject"], []).append(row[key])
    if not by_patient:
        return math.nan
    return float(np.mean([np.mean(values) for values in by_patient.values()]))
