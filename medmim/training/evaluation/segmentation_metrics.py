"""Segmentation of whole volumes and its scores: Dice, HD95 and surface Dice of every case and class.

Empty labels: Dice and surface Dice are 1 where prediction and label are both empty, 0 where only one is;
there is no HD95 where either is, and means leave it out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from monai.inferers.inferer import Inferer, SliceInferer, SlidingWindowInferer
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_dice import compute_surface_dice
from monai.networks.utils import one_hot
from torch import Tensor, nn

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.nifti import read_image
from medmim.data.loading.finite_checks import finite
from medmim.data.loading.preprocess import PreprocessedVolume, VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.training.evaluation.resample_back import on_grid
from medmim.training.precision import autocast

Mask3d = Int[Tensor, "1 x y z"]


@dataclass(frozen=True)
class CaseScore:
    """Scores of one class in one volume.

    Attributes:
        case: volume id.
        subject: patient key.
        label: name of the class.
        dice: 1 when prediction and label are both empty, 0 when only one is.
        surface_dice: share of both surfaces that lies within a tolerance of the other (Nikolov et al., 2021,
            arXiv 1809.04430), with the same rule; None when not measured.
        hd95_mm: 95th percentile of the symmetric surface distance; None when prediction or label is empty.
        volume_ml, predicted_ml: size of label and prediction.
        dice_any: Dice of all classes as one, such as a whole tumour; the same in every row of a case.
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

    def row(self) -> dict[str, Any]:
        """Return it as a JSON-able row."""
        return asdict(self)


def segment(
    network: nn.Module,
    prepared: PreprocessedVolume,
    plan: PreprocessingPlan,
    *,
    precision: str,
    mirror: bool = False,
) -> Tensor:
    """Segment one prepared volume with a Gaussian sliding window, slice by slice in 2D.

    Args:
        network: images → class scores.
        prepared: the volume.
        plan: how it was prepared.
        precision: auto, fp32 or bf16.
        mirror: average with the prediction of the image whose left and right are exchanged.

    Returns:
        Class probabilities, (classes, x, y, z), on the CPU, in the prepared volume's grid.
    """
    device = next(network.parameters()).device
    with torch.no_grad(), autocast(precision, device):
        # slices across left-right have none of it
        axis = 2 if mirror and not (plan.dims == 2 and prepared.slice_axis == 0) else None
        scores = _inferer(prepared, plan)(prepared.image.unsqueeze(0).to(device), Scores(network, axis))
    return torch.softmax(scores[0].float().cpu(), dim=0)


def score_volume(
    network: nn.Module,
    volume: VolumeRecord,
    volumes: VolumeLoader,
    *,
    names: Mapping[int, str],
    precision: str,
    mirror: bool = False,
    tolerance_mm: float | None,
) -> list[CaseScore]:
    """Segment a volume and compare it with its label, on the label's own grid.

    Args:
        network: images → class scores.
        volume: with a label.
        volumes: prepares it.
        names: label value → name.
        precision: auto, fp32 or bf16.
        mirror: as in `segment`.
        tolerance_mm: of surface Dice; None: measure no distances, which take time.
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
    """Score a prediction against a label of the same shape, class by class (background is no class)."""
    # a value that training never saw has no name: no score either
    classes = max(names) + 1
    truth, guess = (one_hot(_known(one, classes).unsqueeze(0), classes) for one in (label, prediction))
    dice = compute_dice(guess, truth, include_background=True, ignore_empty=False)[0]
    whole = [one[:, sorted(names)].amax(dim=1, keepdim=True) for one in (guess, truth)]
    whole_dice = float(compute_dice(*whole, include_background=True, ignore_empty=False)[0, 0])
    voxel_ml = math.prod(spacing_mm) / 1000
    scores = []
    for value, name in sorted(names.items()):
        one = slice(value, value + 1)
        there, said = bool(truth[:, one].any()), bool(guess[:, one].any())
        surface = None
        if tolerance_mm is not None:
            surface = float(there == said)
            if there and said:
                surface = _surface_dice(guess[:, one], truth[:, one], spacing_mm, tolerance_mm)
        measured = tolerance_mm is not None and there and said
        scores.append(
            CaseScore(
                case=volume.id,
                subject=volume.subject,
                label=name,
                dice=float(dice[value]),
                hd95_mm=_hd95(guess[:, one], truth[:, one], spacing_mm) if measured else None,
                surface_dice=surface,
                volume_ml=float(truth[:, value].sum()) * voxel_ml,
                predicted_ml=float(guess[:, value].sum()) * voxel_ml,
                dice_any=whole_dice,
            )
        )
    return scores


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means over patients of the means over their cases: all classes together and each of them.

    `dice_present` leaves out what neither label nor prediction holds: where a case has one of many classes, a
    network that finds nothing at all is right about the others.

    Args:
        rows: of `CaseScore`s.
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


class Scores(nn.Module):
    """The network, its scores in float32 so that windows add up exactly; mirrored along an axis too."""

    def __init__(self, network: nn.Module, mirrored: int | None) -> None:
        super().__init__()
        self.network = network
        self.mirrored = mirrored

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores, (batch, classes, *space)."""
        scores: Tensor = self.network(images).float()
        if self.mirrored is None:
            return scores
        other: Tensor = self.network(images.flip(self.mirrored)).float().flip(self.mirrored)
        return (scores + other) / 2


def _inferer(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> Inferer:
    options = {
        "roi_size": plan.size,
        "sw_batch_size": 8 if plan.dims == 2 else 2,
        "overlap": 0.5,
        "mode": "gaussian",
        "cval": prepared.background,
    }
    if plan.dims == 2:
        return SliceInferer(spatial_dim=prepared.slice_axis, **options)
    return SlidingWindowInferer(**options)


def _native_label(volumes: VolumeLoader, volume: VolumeRecord) -> tuple[Tensor, np.ndarray]:
    stored = read_image(volumes.root / str(volume.label))
    return torch.from_numpy(stored.array.astype(np.int64)).unsqueeze(0), stored.affine


def _known(label: Mask3d, classes: int) -> Mask3d:
    return torch.where(label < classes, label, 0)


def _hd95(guess: Tensor, truth: Tensor, spacing_mm: Sequence[float]) -> float:
    return _between_surfaces(compute_hausdorff_distance, guess, truth, spacing_mm, percentile=95)


def _surface_dice(guess: Tensor, truth: Tensor, spacing_mm: Sequence[float], tolerance_mm: float) -> float:
    return _between_surfaces(compute_surface_dice, guess, truth, spacing_mm, class_thresholds=[tolerance_mm])


def _between_surfaces(
    measure: Callable[..., Tensor], guess: Tensor, truth: Tensor, spacing_mm: Sequence[float], **options: Any
) -> float:
    # of one slice, such as a picture, the outline is the surface: in 3D all of it would be
    single = [axis for axis, length in enumerate(truth.shape[2:]) if length == 1][:1]
    for axis in single:
        guess, truth = guess.squeeze(axis + 2), truth.squeeze(axis + 2)
    spacing = [length for axis, length in enumerate(spacing_mm) if axis not in single]
    with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes itself
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
