"""Compare every mask metric with its reference on 200 random cases, with degenerate ones among them.

Prints the largest difference of each metric and writes it as JSON; needs surface-distance (a dev dependency):

    python -m tests.benchmarks.metric_references --out docs/results/metric_references.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import surface_distance
import torch
from monai.metrics.panoptic_quality import compute_panoptic_quality
from scipy import ndimage
from skimage import measure, morphology

from medmim.training.evaluation.segmentation_metrics import SEGMENTATION_METRICS, SegmentationPair

CASES = 200


def random_pair(rng: np.random.Generator, number: int) -> SegmentationPair:
    """Return two random masks on one grid of two or three dimensions with unequal spacing."""
    shape = tuple(rng.integers(5, 17, size=3 if number % 4 else 2))
    masks = [_random_mask(rng, shape, rng.integers(8)) for _ in range(2)]
    if number % 10 == 0:
        masks[1] = masks[0].copy()
    return SegmentationPair(*masks, tuple(rng.uniform(0.5, 3, len(shape))), float(rng.uniform(0.3, 3)))


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...], kind: int) -> np.ndarray:
    if kind == 0:
        return np.zeros(shape, dtype=bool)
    if kind == 1:
        return np.ones(shape, dtype=bool)
    if kind == 2:  # one voxel
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(rng.integers(0, length) for length in shape)] = True
        return mask
    if kind == 3:  # specks
        return rng.random(shape) < 0.03
    return ndimage.gaussian_filter(rng.normal(size=shape), 1 + kind / 8) > 0.1


def dice(pair: SegmentationPair) -> float:
    """DeepMind's."""
    return float(surface_distance.compute_dice_coefficient(pair.true, pair.predicted))


def surface_dice(pair: SegmentationPair) -> float:
    """DeepMind's."""
    distances = surface_distance.compute_surface_distances(pair.true, pair.predicted, pair.spacing_mm)
    return float(surface_distance.compute_surface_dice_at_tolerance(distances, pair.tolerance_mm))


def hd95_mm(pair: SegmentationPair) -> float:
    """The definition, with SciPy's distance transform."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (pair.predicted, pair.true)]
    far = [ndimage.distance_transform_edt(~border, sampling=pair.spacing_mm) for border in borders]
    return float(max(np.percentile(far[1][borders[0]], 95), np.percentile(far[0][borders[1]], 95)))


def _overlapping(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return how many components of one mask overlap the other, and how many there are."""
    regions = measure.regionprops(measure.label(first, connectivity=first.ndim))
    return sum(any(second[tuple(place)] for place in one.coords) for one in regions), len(regions)


def lesion_sensitivity(pair: SegmentationPair) -> float:
    """The definition, component by component."""
    found, count = _overlapping(pair.true, pair.predicted)
    return found / count if count else math.nan


def lesion_precision(pair: SegmentationPair) -> float:
    """The definition, component by component."""
    right, count = _overlapping(pair.predicted, pair.true)
    return right / count if count else math.nan


def lesion_f1(pair: SegmentationPair) -> float:
    """The formula of ISLES 2022."""
    (found, true), (right, predicted) = (
        _overlapping(*masks) for masks in ((pair.true, pair.predicted), (pair.predicted, pair.true))
    )
    errors = (true - found) + (predicted - right)
    return found / (found + errors / 2) if found + errors else math.nan


def volume_error_ml(pair: SegmentationPair) -> float:
    """The definition."""
    voxel_mm3 = float(np.prod(pair.spacing_mm))
    return (pair.predicted.sum() * voxel_mm3 - pair.true.sum() * voxel_mm3) / 1000


def cldice(pair: SegmentationPair) -> float:
    """The formula of the paper; vanished skeletons are replaced by the mask."""
    skeletons = [morphology.skeletonize(mask) > 0 for mask in (pair.predicted, pair.true)]
    first, second = (
        one if one.any() else mask for one, mask in zip(skeletons, (pair.predicted, pair.true), strict=True)
    )
    precision = np.sum(first * pair.true) / np.sum(first)
    sensitivity = np.sum(second * pair.predicted) / np.sum(second)
    return float(2 * precision * sensitivity / max(precision + sensitivity, 1e-12))


def panoptic_quality(pair: SegmentationPair) -> float:
    """MONAI's."""
    instances = [
        torch.from_numpy(measure.label(mask, connectivity=mask.ndim)) for mask in (pair.predicted, pair.true)
    ]
    return float(compute_panoptic_quality(*instances, smooth_numerator=0.0))


REFERENCES = {
    "dice": (dice, "surface-distance 0.1 (DeepMind)"),
    "surface_dice": (surface_dice, "surface-distance 0.1 (DeepMind)"),
    "hd95_mm": (hd95_mm, "definition, SciPy distance transform"),
    "lesion_f1": (lesion_f1, "formula of ISLES 2022"),
    "lesion_sensitivity": (lesion_sensitivity, "definition, component by component"),
    "lesion_precision": (lesion_precision, "definition, component by component"),
    "volume_error_ml": (volume_error_ml, "definition"),
    "cldice": (cldice, "formula of Shit et al., CVPR 2021"),
    "panoptic_quality": (panoptic_quality, "MONAI"),
}


def compared(count: int = CASES) -> list[dict[str, Any]]:
    """Return a row for each metric: cases compared, degenerate ones, the largest difference.

    Cases in which a mask is empty are compared with the stated value where the reference is undefined.
    """
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng, number) for number in range(count)]
    rows = []
    for name, (_, source) in REFERENCES.items():
        ours = [SEGMENTATION_METRICS[name].measure(pair) for pair in pairs]
        expected = [_expected(name, pair) for pair in pairs]
        both = [(a, b) for a, b in zip(ours, expected, strict=True) if a is not None and b is not None]
        rows.append(
            {
                "metric": name,
                "reference": source,
                "cases": len(pairs),
                "a mask is empty": sum(pair.empty is not None for pair in pairs),
                "one of both undefined": sum(
                    (a is None) != (b is None) for a, b in zip(ours, expected, strict=True)
                ),
                "largest difference": max(abs(a - b) for a, b in both),
            }
        )
    return rows


def _expected(name: str, pair: SegmentationPair) -> float | None:
    if pair.empty is not None and SEGMENTATION_METRICS[name].is_tested:
        return pair.empty
    if pair.empty is not None and name == "hd95_mm":
        return None
    value = REFERENCES[name][0](pair)
    return None if math.isnan(value) else value


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text = "[\n" + ",\n".join(json.dumps(row) for row in compared()) + "\n]\n"
    sys.stdout.write(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
