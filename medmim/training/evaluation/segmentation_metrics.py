"""Dice, HD95 and surface Dice of segmented volumes, for every case and class.

Empty classes: Dice and surface Dice are 1 if prediction and label are both empty and 0 if only one is. HD95
    is
undefined if either is empty, and means omit it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from monai.networks.utils import one_hot
from torch import Tensor, nn

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.nifti import read_image
from medmim.data.loading.finite_checks import finite
from medmim.data.loading.foreground_sampling import IGNORE
from medmim.data.loading.preprocess import VolumeLoader, class_indices
from medmim.training.evaluation.postprocessing import Rules, apply_postprocessing, components_of
from medmim.training.evaluation.resample_back import on_grid
from medmim.training.evaluation.segmentation_inference import segment

Mask3d = Int[Tensor, "1 x y z"]


@dataclass(frozen=True)
class CaseScore:
    """Metrics of one class in one volume.

    Attributes:
        case: volume id.
        subject: patient key.
        label: class name.
        dice: Dice.
        surface_dice: share of both surfaces within a tolerance of the other (Nikolov et al., 2021, arXiv
            1809.04430); None if not computed.
        hd95_mm: 95th percentile of the symmetric surface distance; None if undefined or not computed.
        volume_ml, predicted_ml: volume of label and prediction.
        dice_any: Dice of all classes merged, such as a whole tumour; the same in every row of a case.
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
    dice_any: float
    components: list[list[float]] | None = None

    def row(self) -> dict[str, Any]:
        """Return a row of JSON values, without components that were not computed."""
        row = asdict(self)
        return row if self.components is not None else {key: row[key] for key in row if key != "components"}


def score_volume(
    network: nn.Module,
    volume: VolumeRecord,
    volumes: VolumeLoader,
    *,
    names: Mapping[int, str],
    precision: str,
    mirror: bool = False,
    tolerance_mm: float | None,
    rules: Rules = MappingProxyType({}),
) -> list[CaseScore]:
    """Segment a volume and compare it with its label on the label's own grid.

    Args:
        network: maps images to class logits.
        volume: a labelled volume.
        volumes: preprocesses it.
        names: class names by index.
        precision: auto, fp32 or bf16.
        mirror: as in `segment`.
        tolerance_mm: tolerance of surface Dice; None: compute components instead of distances.
        rules: postprocessing by class name.
    """
    prepared = finite(volume, volumes)
    probabilities = segment(network, prepared, volumes.plan, precision=precision, mirror=mirror)
    if volumes.plan.spacing_mm is None and volumes.plan.view == "patch":
        label = prepared.label
        assert label is not None  # only labelled volumes are scored
        affine, prediction = prepared.affine, probabilities.argmax(dim=0, keepdim=True)
    else:
        label, affine = _native_label(volumes, volume)
        prediction = on_grid(probabilities, prepared.affine, label.shape[1:], affine).long().unsqueeze(0)
    if rules:
        voxel_ml = math.prod(_spacing(affine)) / 1000
        cleaned = apply_postprocessing(prediction[0].numpy(), names, rules, voxel_ml)
        prediction = torch.from_numpy(cleaned).unsqueeze(0)
    return compare_labels(
        prediction, label.long(), _spacing(affine), volume=volume, names=names, tolerance_mm=tolerance_mm
    )


def compare_labels(
    prediction: Mask3d,
    label: Mask3d,
    spacing_mm: Sequence[float],
    *,
    volume: VolumeRecord,
    names: Mapping[int, str],
    tolerance_mm: float | None = 1.0,
) -> list[CaseScore]:
    """Compare a prediction with a label of the same shape for each class but background.

    Values without a name count as background, voxels labelled `IGNORE` are left out.
    """
    classes, known = max(names) + 1, label != IGNORE
    truth, guess = (
        one_hot(torch.where(known & (one < classes), one, 0).unsqueeze(0), classes)
        for one in (label, prediction)
    )
    dice = compute_dice(guess, truth, include_background=True, ignore_empty=False)[0]
    whole = [one[:, sorted(names)].amax(dim=1, keepdim=True) for one in (guess, truth)]
    whole_dice = float(compute_dice(*whole, include_background=True, ignore_empty=False)[0, 0])
    voxel_ml = math.prod(spacing_mm) / 1000
    scores = []
    for value, name in sorted(names.items()):
        one = guess[:, value : value + 1], truth[:, value : value + 1]
        hd95, surface = (None, None) if tolerance_mm is None else _distances(*one, spacing_mm, tolerance_mm)
        scores.append(
            CaseScore(
                case=volume.id,
                subject=volume.subject,
                label=name,
                dice=float(dice[value]),
                hd95_mm=hd95,
                surface_dice=surface,
                volume_ml=float(one[1].sum()) * voxel_ml,
                predicted_ml=float(one[0].sum()) * voxel_ml,
                dice_any=whole_dice,
                components=None
                if tolerance_mm is not None
                else components_of(_mask(one[0]), _mask(one[1]), voxel_ml),
            )
        )
    return scores


def _mask(part: Tensor) -> np.ndarray:
    return part[0, 0].numpy() > 0


def _distances(
    guess: Tensor, truth: Tensor, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float | None, float]:
    """Return HD95, None if a mask is empty, and surface Dice."""
    predicted, present = bool(guess.any()), bool(truth.any())
    if not (predicted and present):
        return None, float(predicted == present)
    hd95 = _between_surfaces(compute_hausdorff_distance, guess, truth, spacing_mm, percentile=95)
    thresholds = {"class_thresholds": [tolerance_mm]}
    return hd95, _between_surfaces(compute_surface_dice, guess, truth, spacing_mm, **thresholds)


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return means over patients of means over their cases, for all classes together and each class.

    `dice_present` omits classes that are empty in label and prediction: if cases have one of many classes, a
    network that predicts nothing would otherwise score well on the others.

    Args:
        rows: rows of `CaseScore`.
    """
    names = sorted({row["label"] for row in rows})
    means: dict[str, float] = {}
    for key in ("dice", "hd95_mm", "surface_dice"):
        means[key] = _over_patients(rows, key)
        for name in names if len(names) > 1 else []:
            means[f"{key}_{name}"] = _over_patients([row for row in rows if row["label"] == name], key)
    there = [row for row in rows if row["volume_ml"] or row["predicted_ml"]]
    means["dice_present"] = _over_patients(there, "dice")
    if len(names) > 1:
        means["dice_any"] = _over_patients(rows, "dice_any")
    return {key: value for key, value in means.items() if math.isfinite(value)}


def _native_label(volumes: VolumeLoader, volume: VolumeRecord) -> tuple[Tensor, np.ndarray]:
    stored = read_image(volumes.root / str(volume.label))
    values = torch.from_numpy(np.rint(stored.array).astype(np.int64)).unsqueeze(0)
    return class_indices(values, volumes.plan), stored.affine


def _between_surfaces(
    measure: Callable[..., Tensor], guess: Tensor, truth: Tensor, spacing_mm: Sequence[float], **options: Any
) -> float:
    # the surface of a single slice is its outline; in 3D, all of its voxels would be surface
    single = [axis for axis, length in enumerate(truth.shape[2:]) if length == 1][:1]
    for axis in single:
        guess, truth = guess.squeeze(axis + 2), truth.squeeze(axis + 2)
    spacing = [length for axis, length in enumerate(spacing_mm) if axis not in single]
    with warnings.catch_warnings():  # MONAI 1.6 warns about an argument that it passes itself
        warnings.simplefilter("ignore", FutureWarning)
        found = measure(guess, truth, include_background=True, spacing=spacing, **options)
    return float(found[0, 0])


def _spacing(affine: np.ndarray) -> tuple[float, ...]:
    return tuple(float(length) for length in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def _over_patients(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            by_patient.setdefault(row["subject"], []).append(row[key])
    if not by_patient:
        return math.nan
    return float(np.mean([np.mean(values) for values in by_patient.values()]))
