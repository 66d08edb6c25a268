"""Inference of a detector on one volume: sliding windows, box decoding and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from monai.apps.detection.utils.box_selector import BoxSelector
from monai.apps.detection.utils.predict_utils import predict_with_inferer
from monai.data.box_utils import non_max_suppression
from monai.inferers.inferer import SlidingWindowInferer
from monai.transforms.croppad.array import SpatialPad
from torch import Tensor

from medmim.data.dataset.boxes import Boxes, boxes_to_3d
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.heads.detection import BOXES, SCORES, Detector
from medmim.shapes import Size, round_up
from medmim.training.evaluation.inference import mirrored
from medmim.training.precision import autocast
from medmim.training.tasks.classification import views

_MIN_SCORE = 0.02
_OVERLAP = 0.3  # IoU for non-maximum suppression: findings of one class seldom overlap more
_MAX_BOXES = 30
_BATCH = 8


@dataclass(frozen=True, eq=False)
class DetectedBoxes:
    """Boxes of one volume or of one of its slices.

    Attributes:
        boxes: boxes in voxels of the preprocessed image.
        scores: 0 to 1, in descending order.
        classes: class index of each box.
        index: slice index; None: the whole volume.
    """

    boxes: Boxes
    scores: Float[np.ndarray, " boxes"]
    classes: Int[np.ndarray, " boxes"]
    index: int | None


def best_of_each_name(boxes: Boxes, scores: np.ndarray, names: Sequence[str]) -> list[int]:
    """Return the places of the boxes that overlap no better one of their name, in ascending order."""
    found, kept = np.array(names, dtype=object), []
    for name in dict.fromkeys(names):
        own = np.flatnonzero(found == name)
        best = non_max_suppression(boxes[own], scores[own], nms_thresh=_OVERLAP)
        kept += own[np.asarray(best)].tolist()
    return sorted(kept)


def detect(
    network: Detector,
    prepared: PreprocessedVolume,
    plan: PreprocessingPlan,
    *,
    precision: str,
    mirror: bool = False,
) -> list[DetectedBoxes]:
    """Detect boxes in one volume: one `DetectedBoxes` for each slice in 2D, a single one in 3D."""
    network.eval()
    even = all(step % 2 == 0 for level in network.levels for step in network.maps.strides[level])
    flips = mirrored(prepared, plan) if mirror and even else []  # the anchors are then symmetrical
    images = views(prepared, plan)
    space = tuple(images.shape[2:])
    size = _padded(space, plan, network)
    before = [(full - length) // 2 for full, length in zip(size, space, strict=True)]
    pad = SpatialPad(size, mode="constant", value=prepared.background)
    found = []
    for number, some in enumerate(torch.split(images, _BATCH)):
        batch = torch.stack([pad(image).as_tensor() for image in some])
        for offset, (boxes, scores, classes) in enumerate(_boxes(network, batch, plan, precision, flips)):
            shifted = (boxes - np.array([*before, *before])).clip(0, [*space, *space])
            # boxes in the padding are empty after clipping
            real = (shifted[:, plan.dims :] > shifted[:, : plan.dims]).all(axis=1)
            index = number * _BATCH + offset if plan.dims == 2 else None
            placed = (
                shifted[real] if index is None else boxes_to_3d(shifted[real], prepared.slice_axis, index)
            )
            found.append(DetectedBoxes(placed, scores[real], classes[real], index))
    return found


def _boxes(
    network: Detector, images: Tensor, plan: PreprocessingPlan, precision: str, flips: Sequence[Size]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return boxes (in voxels), scores and classes of every image."""
    device = next(network.parameters()).device
    dims = plan.dims
    with torch.no_grad(), autocast(precision, device):
        out = _averaged_maps(network, images.to(device), plan, flips)
    anchors = network.anchors(images, out[SCORES]).to(device)
    scores = [level.float() for level in network.rows(out[SCORES], network.classes)]
    changes = [level.float() for level in network.rows(out[BOXES], 2 * dims)]
    near = torch.split(anchors, [level.shape[1] for level in scores])
    selector = BoxSelector(
        score_thresh=_MIN_SCORE,
        topk_candidates_per_level=500,
        nms_thresh=_OVERLAP,
        detections_per_img=_MAX_BOXES,
    )
    results = []
    for number in range(len(images)):
        decoded = [
            network.coder.decode_single(level[number], anchor)
            for level, anchor in zip(changes, near, strict=True)
        ]
        chosen = selector.select_boxes_per_image(
            decoded, [level[number] for level in scores], list(images.shape[2:])
        )
        boxes, values, classes = (one.cpu().numpy() for one in chosen)
        order = np.argsort(-values, kind="stable")
        results.append(
            (
                boxes[order].astype(np.float64).reshape(-1, 2 * dims),
                values[order].astype(np.float64),
                classes[order],
            )
        )
    return results


def _averaged_maps(
    network: Detector, images: Tensor, plan: PreprocessingPlan, flips: Sequence[Size]
) -> dict[str, list[Tensor]]:
    """Return the mean of the maps of images and of mirrored images, mirrored back."""
    found = [_maps(network, images, plan)]
    for axes in flips:
        out = _maps(network, images.flip(axes), plan)
        signs = torch.ones(2 * plan.dims)
        signs[[axis - 2 for axis in axes]] = -1  # a shift to the left becomes one to the right
        per_map = signs.repeat(network.grid.per_place).reshape(-1, *[1] * plan.dims).to(images.device)
        boxes = [level.flip(axes) * per_map for level in out[BOXES]]
        found.append({SCORES: [level.flip(axes) for level in out[SCORES]], BOXES: boxes})
    return {
        name: [
            torch.stack(levels).float().mean(dim=0)
            for levels in zip(*(one[name] for one in found), strict=True)
        ]
        for name in (SCORES, BOXES)
    }


def _maps(network: Detector, images: Tensor, plan: PreprocessingPlan) -> dict[str, list[Tensor]]:
    """Return the network's maps of whole images, assembled from sliding windows for large images."""
    if plan.view == "whole" or all(n <= size for n, size in zip(images.shape[2:], plan.size, strict=True)):
        out: dict[str, list[Tensor]] = network(images)
        return out
    inferer = SlidingWindowInferer(plan.size, sw_batch_size=2, overlap=0.5, mode="gaussian")
    joined: Any = predict_with_inferer(images, network, keys=[SCORES, BOXES], inferer=inferer)
    return dict(joined)


def _padded(space: Size, plan: PreprocessingPlan, network: Detector) -> Size:
    """Return the padded image size: a multiple of the stride, at least the training size."""
    larger = tuple(max(length, size) for length, size in zip(space, plan.size, strict=True))
    return round_up(larger, network.encoder.total_stride)
