"""Segmentation metrics: Dice, HD95 and others, as Metrics Reloaded recommends (Nature Methods 21, 2024).

Where prediction and truth are empty, a metric that is compared between predictions is 1, and where only one
is empty it is 0. Others are None where they are undefined; means leave them out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Tensor

from medmim.errors import unknown_name

Foreground = Bool[np.ndarray, "*space"]
_SAME_INSTANCE = 0.5  # IoU above which two instances match; at most one pair can exceed it


@dataclass(frozen=True, eq=False)
class SegmentationPair:
    """The predicted and the true voxels of one structure on one grid.

    Attributes:
        predicted, true: boolean arrays in two or three dimensions; an axis of one voxel is left out.
        tolerance_mm: of surface Dice.
    """

    predicted: Foreground
    true: Foreground
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
    tolerance_mm: float = 1.0

    @property
    def empty(self) -> float | None:
        """1 if both are empty, 0 if one is, None if none is."""
        predicted, true = bool(self.predicted.any()), bool(self.true.any())
        return None if predicted and true else float(predicted == true)

    @cached_property
    def flat(self) -> tuple[Foreground, Foreground, list[float]]:
        """Both arrays and the spacing without an axis of one voxel: the surface of a slice is its outline."""
        single = [axis for axis, length in enumerate(self.true.shape) if length == 1][:1]
        spacing = [length for axis, length in enumerate(self.spacing_mm) if axis not in single]
        return np.squeeze(self.predicted, tuple(single)), np.squeeze(self.true, tuple(single)), spacing

    @cached_property
    def lesions(self) -> tuple[Int[np.ndarray, "*space"], Int[np.ndarray, "*space"]]:
        """Components of both; voxels that share a corner are connected."""
        around = ndimage.generate_binary_structure(self.true.ndim, self.true.ndim)
        return ndimage.label(self.predicted, around)[0], ndimage.label(self.true, around)[0]

    @cached_property
    def lesion_counts(self) -> tuple[int, int, int, int]:
        """True lesions found and all, predicted lesions that touch a true one and all."""
        predicted, true = self.lesions
        both = (predicted > 0) & (true > 0)
        found, right = np.unique(true[both]), np.unique(predicted[both])
        return len(found), int(true.max(initial=0)), len(right), int(predicted.max(initial=0))


def dice(pair: SegmentationPair) -> float:
    """Return 2 |P ∩ T| / (|P| + |T|)."""
    total = int(pair.predicted.sum()) + int(pair.true.sum())
    return 2 * int((pair.predicted & pair.true).sum()) / total if total else 1.0


def surface_dice(pair: SegmentationPair) -> float:
    """Return the share of both surfaces within the tolerance of the other (Nikolov et al., arXiv 1809.04430).

    Surfaces lie between voxels and are weighted by their area, as in the authors' code.
    """
    if pair.empty is not None:
        return pair.empty
    return _between_surfaces(
        compute_surface_dice, pair, class_thresholds=[pair.tolerance_mm], use_subvoxels=True
    )


def hd95_mm(pair: SegmentationPair) -> float | None:
    """Return the larger of the two directed 95th percentiles of distances between border voxels.

    Each percentile is taken over the border voxels of one segmentation, not over those of both together, as
    other code does. None if one is empty.
    """
    if pair.empty is not None:
        return None
    return _between_surfaces(compute_hausdorff_distance, pair, percentile=95)


def lesion_sensitivity(pair: SegmentationPair) -> float | None:
    """Return the share of true lesions that the prediction overlaps by a voxel; None without true lesions."""
    found, true, _, _ = pair.lesion_counts
    return found / true if true else None


def lesion_precision(pair: SegmentationPair) -> float | None:
    """Return the share of predicted lesions that overlap a true one by a voxel; None without any."""
    _, _, right, predicted = pair.lesion_counts
    return right / predicted if predicted else None


def lesion_f1(pair: SegmentationPair) -> float:
    """Return 2 TP / (2 TP + FP + FN) over lesions, as in ISLES 2022 (de la Rosa et al., 2024).

    TP counts true lesions that the prediction overlaps by a voxel, FP predicted lesions that overlap none.
    """
    found, true, right, predicted = pair.lesion_counts
    total = found + true + predicted - right
    return 2 * found / total if total else 1.0


def volume_error_ml(pair: SegmentationPair) -> float:
    """Return predicted minus true volume."""
    difference = int(pair.predicted.sum()) - int(pair.true.sum())
    return difference * math.prod(pair.spacing_mm) / 1000


def cldice(pair: SegmentationPair) -> float:
    """Return the centreline Dice of tubes (Shit et al., CVPR 2021), with scikit-image's skeletons.

    A skeleton that vanishes, as that of a few voxels may, is replaced by the structure.
    """
    if pair.empty is not None:
        return pair.empty
    predicted, true, _ = pair.flat
    precision, sensitivity = _inside(predicted, true), _inside(true, predicted)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


def panoptic_quality(pair: SegmentationPair) -> float:
    """Return the sum of IoU of matched instances / (TP + FP/2 + FN/2) (Kirillov et al., CVPR 2019).

    Instances are components; two match if their IoU exceeds 0.5.
    """
    predicted, true = pair.lesions
    sizes = np.bincount(predicted.ravel()), np.bincount(true.ravel())
    both = (predicted > 0) & (true > 0)
    (first, second), shared = np.unique(np.stack([predicted[both], true[both]]), axis=1, return_counts=True)
    overlap = shared / (sizes[0][first] + sizes[1][second] - shared)
    total = (len(sizes[0]) - 1 + len(sizes[1]) - 1) / 2
    return float(overlap[overlap > _SAME_INSTANCE].sum() / total) if total else 1.0


@dataclass(frozen=True)
class SegmentationMetric:
    """A metric of the table.

    Attributes:
        measure: computes it.
        is_tested: whether predictions can be compared by it: from 0 to 1, higher is better, always defined.
    """

    title: str
    measure: Callable[[SegmentationPair], float | None]
    is_tested: bool = False


SEGMENTATION_METRICS = {
    "dice": SegmentationMetric("Dice", dice, is_tested=True),
    "surface_dice": SegmentationMetric("surface Dice", surface_dice, is_tested=True),
    "hd95_mm": SegmentationMetric("HD95 (larger directed) mm", hd95_mm),
    "lesion_f1": SegmentationMetric("lesion F1", lesion_f1, is_tested=True),
    "lesion_sensitivity": SegmentationMetric("lesion sensitivity", lesion_sensitivity),
    "lesion_precision": SegmentationMetric("lesion precision", lesion_precision),
    "volume_error_ml": SegmentationMetric("volume error ml", volume_error_ml),
    "cldice": SegmentationMetric("clDice", cldice, is_tested=True),
    "panoptic_quality": SegmentationMetric("panoptic quality", panoptic_quality, is_tested=True),
}


def known_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetitions; raise UsageError for one that is not in the table."""
    for name in names:
        if name not in SEGMENTATION_METRICS:
            raise unknown_name("metric", name, SEGMENTATION_METRICS)
    return tuple(dict.fromkeys(names))


def _inside(one: Foreground, other: Foreground) -> float:
    """Return the share of the skeleton of one structure that lies inside the other."""
    skeleton = skeletonize(one) > 0
    return float(other[skeleton if skeleton.any() else one].mean())


def _between_surfaces(measure: Callable[..., Tensor], pair: SegmentationPair, **options: Any) -> float:
    predicted, true, spacing = pair.flat
    tensors = [torch.from_numpy(np.ascontiguousarray(one))[None, None] for one in (predicted, true)]
    with warnings.catch_warnings():  # MONAI 1.6 warns about an argument that it passes itself
        warnings.simplefilter("ignore", FutureWarning)
        found = measure(*tensors, include_background=True, spacing=spacing, **options)
    return float(found[0, 0])
