"""Anchor boxes for detection: shapes from the training boxes, positions, and coverage."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from scipy.cluster.vq import kmeans2
from torch import Tensor

from medmim.shapes import Size

Shapes = tuple[tuple[tuple[float, ...], ...], ...]
Anchors = Float[Tensor, "anchors sides"]

_MIN_SIDE = 2.0  # voxels; MONAI rounds half sides, and an anchor with a side of 0 is empty
_CANDIDATES = 9  # anchor positions of a level near a box that ATSS considers, as published


def anchor_shapes(sides: np.ndarray, *, levels: int, count: int) -> Shapes:
    """Choose anchor shapes by k-means over the logarithms of training box sizes, small ones for fine levels.

    Args:
        sides: of the training boxes, (boxes, dims) in voxels.

    Returns:
        `count` shapes for each level.
    """
    logs = np.log(np.maximum(sides, _MIN_SIDE))
    order = np.argsort(logs.sum(axis=1), kind="stable")
    positions = ((np.arange(levels * count) + 0.5) / (levels * count) * len(logs)).astype(int)
    with warnings.catch_warnings():  # with few boxes a cluster may stay empty and keep its initial shape
        warnings.simplefilter("ignore", UserWarning)
        centres, _ = kmeans2(logs, logs[order[positions]], minit="matrix")  # deterministic initial centres
    shapes = np.exp(centres[np.argsort(centres.sum(axis=1), kind="stable")]).round(2)
    return tuple(
        tuple(tuple(float(side) for side in shape) for shape in shapes[level * count : (level + 1) * count])
        for level in range(levels)
    )


class AnchorGrid:
    """Anchors over a pyramid of feature maps: MONAI's generator with separate shapes for each level."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.per_place = len(shapes[0])
        self._generator = AnchorGeneratorWithAnchorShape(
            feature_map_scales=(1,) * len(shapes), base_anchor_shapes=shapes[0]
        )
        self._generator.cell_anchors = [
            self._generator.generate_anchors_using_shape(torch.tensor(level).clamp(min=_MIN_SIDE))
            for level in shapes
        ]

    def __call__(self, images: Tensor, maps: Sequence[Tensor]) -> Anchors:
        """Return the anchors of one image, ordered by level, then by position."""
        anchors: Tensor = self._generator(images, [map_.float() for map_ in maps])[0]
        return anchors


def match_anchors(
    boxes: Float[Tensor, "boxes sides"], anchors: Anchors, *, places: Sequence[int], per_place: int
) -> Int[Tensor, " anchors"]:
    """Assign anchors to boxes by ATSS (Zhang et al., CVPR 2020).

    Args:
        boxes: boxes of one image.
        anchors: anchors of that image.
        places: number of positions of each level.
        per_place: anchors at each position.

    Returns:
        The index of the matched box for each anchor, -1 for background.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    _, matches = ATSSMatcher(_CANDIDATES, center_in_gt=False)(boxes, anchors, list(places), per_place)
    found: Tensor = matches
    return found


def coverage(
    images: Sequence[Float[Tensor, "_ sides"]], grid: AnchorGrid, *, size: Size, strides: Sequence[Size]
) -> float:
    """Return the share of boxes to which at least one anchor is assigned."""
    shapes = [tuple(-(-n // s) for n, s in zip(size, stride, strict=True)) for stride in strides]
    anchors = grid(torch.zeros(1, 1, *size), [torch.zeros(1, 1, *shape) for shape in shapes])
    places = [int(np.prod(shape)) for shape in shapes]
    boxes = positive = 0
    for found in images:
        indices = match_anchors(found, anchors, places=places, per_place=grid.per_place)
        boxes += len(found)
        positive += len(torch.unique(indices[indices >= 0]))
    return positive / max(boxes, 1)
