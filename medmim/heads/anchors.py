"""Anchors: box shapes that the training boxes call for, laid over feature maps, and how well they cover."""

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

_LEAST = 2.0  # voxels; MONAI rounds half sizes, and a side of 0 holds nothing
_CANDIDATES = 4  # anchor positions a level near a box that ATSS considers; MONAI's default


def anchor_shapes(sides: np.ndarray, *, levels: int, count: int) -> Shapes:
    """Choose anchors by k-means over the sizes of training boxes, small ones for fine levels.

    Sizes are compared by their logarithms: 10 and 20 voxels differ as much as 50 and 100.

    Args:
        sides: sizes of the boxes in voxels, (boxes, dims).
        levels: feature maps, fine to coarse.
        count: anchors at each place of a map.

    Returns:
        For each level, `count` shapes.
    """
    logs = np.log(np.maximum(sides, _LEAST))
    with warnings.catch_warnings():  # few boxes leave a cluster empty: its start stays, a shape near others
        warnings.simplefilter("ignore", UserWarning)
        centres, _ = kmeans2(logs, _spread(logs, levels * count), minit="matrix")
    shapes = np.exp(centres[np.argsort(centres.sum(axis=1), kind="stable")]).round(2)
    return tuple(
        tuple(tuple(float(side) for side in shape) for shape in shapes[level * count : (level + 1) * count])
        for level in range(levels)
    )


class AnchorGrid:
    """Anchors over a pyramid of feature maps (MONAI's generator, a list of shapes a level).

    Args:
        shapes: for each level, fine to coarse, the shapes at every place, in voxels.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.per_place = len(shapes[0])
        self._generator = AnchorGeneratorWithAnchorShape(
            feature_map_scales=(1,) * len(shapes), base_anchor_shapes=shapes[0]
        )
        self._generator.cell_anchors = [
            self._generator.generate_anchors_using_shape(torch.tensor(level).clamp(min=_LEAST))
            for level in shapes
        ]

    def __call__(self, images: Tensor, maps: Sequence[Tensor]) -> Anchors:
        """Return the anchors of one image, level after level, each place after place.

        Args:
            images: (batch, channels, *space).
            maps: one for each level; only their sizes count.
        """
        anchors: Tensor = self._generator(images, [map_.float() for map_ in maps])[0]
        return anchors


def matched(
    boxes: Float[Tensor, "boxes sides"], anchors: Anchors, *, places: Sequence[int], per_place: int
) -> Int[Tensor, " anchors"]:
    """Return for each anchor the box that it answers for, or -1 (ATSS, Zhang et al., CVPR 2020).

    Args:
        boxes: of one image.
        anchors: of the image.
        places: of each level.
        per_place: anchors at each place.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.long, device=anchors.device)
    matcher = ATSSMatcher(_CANDIDATES, center_in_gt=False)
    _, matches = matcher(boxes, anchors, list(places), per_place)
    found: Tensor = matches
    return found


def coverage(
    images: Sequence[Float[Tensor, "boxes sides"]], grid: AnchorGrid, *, size: Size, strides: Sequence[Size]
) -> float:
    """Return the share of boxes that have an anchor of their own.

    Args:
        images: the boxes of each image.
        grid: the anchors.
        size: of the images in voxels.
        strides: of each level.
    """
    shapes = [tuple(-(-n // s) for n, s in zip(size, stride, strict=True)) for stride in strides]
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    anchors = grid(torch.zeros(1, 1, *size), maps)
    places = [int(np.prod(shape)) for shape in shapes]
    boxes = positive = 0
    for found in images:
        indices = matched(found, anchors, places=places, per_place=grid.per_place)
        boxes += len(found)
        positive += len(torch.unique(indices[indices >= 0]))
    return positive / max(boxes, 1)


def _spread(logs: np.ndarray, count: int) -> np.ndarray:
    """Return starts for k-means: boxes at even steps of volume, the same for the same boxes."""
    order = np.argsort(logs.sum(axis=1), kind="stable")
    places = ((np.arange(count) + 0.5) / count * len(logs)).astype(int)
    return np.asarray(logs[order[places]])
