"""The detection task: validated boxes, anchors from the training data, loss, and detected boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medmim.data.dataset.boxes import boxes_in_slice, boxes_to_2d, boxes_to_3d, check_boxes, map_boxes
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.augmentation import load_augmentation
from medmim.data.loading.detection_samples import DEFAULT, detection_patches
from medmim.data.loading.finite_checks import load_finite
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import View
from medmim.encoders import Encoder
from medmim.errors import DataError, UsageError
from medmim.heads.anchors import AnchorGrid, anchor_shapes, coverage
from medmim.heads.detection import Detector, detection_loss, level_strides
from medmim.shapes import Scalar
from medmim.training.evaluation.detection_metrics import UNCHOSEN, best_thresholds, box_means, box_tally
from medmim.training.evaluation.metric_intervals import Statistic
from medmim.training.evaluation.panels import boxed_row, panel
from medmim.training.tasks.base import (
    Cases,
    EvaluationContext,
    LogLine,
    Options,
    Row,
    Rows,
    Task,
    TrainingSamples,
    Volumes,
)
from medmim.training.tasks.detection_inference import DetectedBoxes, best_of_each_name, detect

_SHOWN = 3  # detected boxes in a figure
_MEASURED = 500  # images for the coverage of anchors
_SMALL = 0.05  # quantile of the boxes' longest sides that counts as the side of a small box


@dataclass(frozen=True)
class Detection(Task):
    """Boxes around findings; 2D networks process every slice of a volume.

    Attributes:
        anchors: anchor shapes at every position of a feature map.
        width: channels of the feature pyramid, a multiple of 8.
        depth: convolutions of each head before its output, 1 to 4.
        bad_boxes: refuse invalid boxes, or clip them to the image.
        negatives: known: images without boxes are negatives if they have a label volume; all: always.
        mirror: average scores and boxes over the mirroring axes of the plan.
    """

    anchors: int = 3
    width: int = 64
    depth: int = 2
    bad_boxes: str = "refuse"
    negatives: str = "known"
    mirror: bool = True

    axis: ClassVar[str] = "detection"
    requirement: ClassVar[str] = "boxes"
    hint: ClassVar[str] = "; if they are negatives, add --set task_options.negatives=all"
    metric: ClassVar[str] = "ap50"
    selection_metric: ClassVar[str] = "ap50"
    max_val_volumes: ClassVar[int] = 200
    max_val_pictures: ClassVar[int] = 200

    def __post_init__(self) -> None:
        if self.anchors < 1 or self.width < 8 or self.width % 8 or self.depth not in range(1, 5):
            raise UsageError(
                "task_options: expected at least one anchor, a width that is a multiple of 8 and a depth "
                f"from 1 to 4, got {self.anchors}, {self.width} and {self.depth}"
            )
        if self.bad_boxes not in ("refuse", "clip") or self.negatives not in ("known", "all"):
            raise UsageError("task_options: expected bad_boxes refuse or clip and negatives known or all")

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether the image has boxes or is a negative."""
        return bool(volume.boxes) or self.negatives == "all" or volume.label is not None

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return the classes of the boxes."""
        return frozenset(one.name for one in volume.boxes)

    def validate(self, volumes: Volumes, log: LogLine) -> Volumes:
        """Validate or clip the boxes and remove the label volumes."""
        rows, changes = check_boxes(volumes, clip=self.bad_boxes == "clip")
        for change in changes:
            log(f"clipped {change}")
        return tuple(row.model_copy(update={"label": None}) for row in rows)

    def view(self, dims: int) -> View:
        """Return whole slices in 2D and patches in 3D, where findings are small."""
        return "whole" if dims == 2 else "patch"

    def names(self, dataset: Dataset, train: Cases, fingerprint: object) -> dict[int, str]:
        """Return the classes of the training boxes in alphabetical order."""
        found = sorted({one.name for volume in train for one in volume.boxes})
        if not found:
            raise DataError(
                "no training image has a box: ingest boxes (COCO, YOLO, VGG or CSV), or label volumes whose "
                "parts become boxes",
                reason="no_boxes",
            )
        return dict(enumerate(found))

    def head(self, encoder: Encoder, train: Cases, context: EvaluationContext, log: LogLine) -> Options:
        """Return the network's options, with anchors from the training boxes; logs their coverage."""
        plan = context.plan
        images = [boxes for volume in train for boxes in _seen(context.volumes(volume), plan.dims)]
        boxes = np.concatenate(images)
        sides = boxes[:, plan.dims :] - boxes[:, : plan.dims]
        smallest = float(np.quantile(sides.max(axis=1), _SMALL))
        strides = level_strides(encoder, spatial_dims=plan.dims, smallest=smallest)
        shapes = anchor_shapes(sides, levels=len(strides), count=self.anchors)
        reached = coverage(
            [_into(torch.from_numpy(one).float(), plan.size) for one in images[:_MEASURED]],
            AnchorGrid(shapes),
            size=plan.size,
            strides=strides,
        )
        log(f"{reached:.1%} of {len(boxes)} training boxes are matched to an anchor")
        return {"anchors": shapes, "width": self.width, "depth": self.depth}

    def training_samples(
        self,
        train: Cases,
        context: EvaluationContext,
        *,
        foreground: float,
        augment: str | Mapping[str, Any] | None = None,
    ) -> TrainingSamples:
        """Return patches or whole images with their boxes."""
        numbers = {name: number for number, name in context.names.items()}

        def targets(volume: VolumeRecord, prepared: PreprocessedVolume) -> Mapping[str, Tensor]:
            classes = [numbers[one.name] for one in volume.boxes]
            return {
                "boxes": torch.from_numpy(prepared.boxes),
                "classes": torch.tensor(classes, dtype=torch.long),
            }

        most = max(len(volume.boxes) for volume in train)
        augmentation = load_augmentation(augment) if augment else DEFAULT
        patches = detection_patches(context.plan, most=most, foreground=foreground, augmentation=augmentation)
        return TrainingSamples(patches, targets=targets)

    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return the classification and box loss."""
        return detection_loss(network, batch["image"], batch["boxes"], batch["classes"])

    def evaluate(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, final: bool) -> Rows:
        """Return true and detected boxes of every image, in voxels of the file."""
        assert isinstance(network, Detector)
        rows = []
        for case in cases:
            prepared = load_finite(case, context.volumes)
            for found in self._detect(network, prepared, context):
                rows.append(self._row(case, prepared, found, context))
        return rows

    def _detect(
        self, network: Detector, prepared: PreprocessedVolume, context: EvaluationContext
    ) -> list[DetectedBoxes]:
        return detect(network, prepared, context.plan, precision=context.precision, mirror=self.mirror)

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return the score threshold of each class with the best F1, a default for classes without boxes."""
        names = list(context.names.values())
        return {"thresholds": dict.fromkeys(names, UNCHOSEN) | best_thresholds(rows, names)}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return AP50, AP50:95, FROC and F1."""
        return box_means(rows, list(context.names.values()), context.tuned.get("thresholds"))

    def weighted_statistic(self, rows: Sequence[Row], context: EvaluationContext) -> Statistic:
        """Return the same as `means` for patients that count more than once."""
        return box_tally(rows, list(context.names.values()), context.tuned.get("thresholds", {}))

    def figure(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, title: str) -> bytes:
        """Return slices with true boxes and the best detections."""
        assert isinstance(network, Detector)
        rows = []
        for case in cases:
            prepared = load_finite(case, context.volumes)
            axis, boxes = prepared.slice_axis, prepared.boxes
            middle = (
                (boxes[0, axis] + boxes[0, axis + 3]) / 2
                if len(boxes)
                else prepared.image.shape[axis + 1] / 2
            )
            index = min(int(middle), prepared.image.shape[axis + 1] - 1)
            drawn = [(box, 0, "") for box in boxes[boxes_in_slice(boxes, axis, index)]]
            for found in self._detect(network, prepared, context):
                names = [context.names[int(kind)] for kind in found.classes]
                best = best_of_each_name(found.boxes, found.scores, names)
                shown = [one for one in best if boxes_in_slice(found.boxes[[one]], axis, index).any()]
                words = [(found.boxes[one], 1, f"{names[one]} {found.scores[one]:.2f}") for one in shown]
                drawn += words[:_SHOWN]
            rows.append(boxed_row(prepared.image[0], axis=axis, index=index, boxes=drawn))
        return panel(rows, [""], title=title, names=["true", "detected"])

    def _row(
        self,
        case: VolumeRecord,
        prepared: PreprocessedVolume,
        found: DetectedBoxes,
        context: EvaluationContext,
    ) -> Row:
        truth, axis = prepared.boxes, prepared.slice_axis
        names = np.array([one.name for one in case.boxes], dtype=object)
        if found.index is not None:
            cut = boxes_in_slice(truth, axis, found.index)
            truth, names = boxes_to_3d(boxes_to_2d(truth[cut], axis), axis, found.index), names[cut]
        truth = map_boxes(truth, prepared.affine, prepared.stored_affine).round(3)
        boxes = map_boxes(found.boxes, prepared.affine, prepared.stored_affine).round(3)
        scored = zip(found.classes, found.scores.round(4), boxes, strict=True)
        return {
            "metric": self.metric,
            "case": case.id,
            "subject": case.subject,
            "slice": found.index,
            "truth": [[name, *box.tolist()] for name, box in zip(names, truth, strict=True)],
            "found": [[context.names[int(kind)], float(score), *box.tolist()] for kind, score, box in scored],
        }


def _seen(prepared: PreprocessedVolume, dims: int) -> list[np.ndarray]:
    """Return the boxes of each network input: of every slice with boxes in 2D, of the volume in 3D."""
    boxes, axis = prepared.boxes, prepared.slice_axis
    if dims == 3:
        return [boxes]
    slices = range(prepared.image.shape[axis + 1])
    cut = [boxes_to_2d(boxes[boxes_in_slice(boxes, axis, index)], axis) for index in slices]
    return [one for one in cut if len(one)] or [np.zeros((0, 4))]


def _into(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return each box as it lies in a patch cropped around it."""
    dims = len(size)
    half = (boxes[:, dims:] - boxes[:, :dims]) / 2
    middle = torch.minimum((boxes[:, dims:] + boxes[:, :dims]) / 2, torch.tensor(size) - half)
    middle = torch.maximum(middle, half)
    return torch.cat([middle - half, middle + half], dim=1)
