"""Segmentation as a task: patches around labels, Dice losses, scores of whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.losses.ds_loss import DeepSupervisionLoss
from torch import Tensor, nn

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.patches import segmentation_patches
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import View
from medmim.encoders import Encoder
from medmim.errors import DataError, UsageError
from medmim.methods.dice_loss import CRITERIA, batch_dice
from medmim.shapes import Scalar
from medmim.training.evaluation.figures import panel, segmentation_row
from medmim.training.evaluation.segmentation_metrics import CaseScore, mean_scores, score_volume, segment
from medmim.training.tasks.base import EvaluationContext, Row, Task, TrainingSamples

_LARGEST = 255  # predictions have a byte a voxel


@dataclass(frozen=True)
class Segmentation(Task):
    """A class for every voxel, scored on the label's own grid.

    Attributes:
        criterion: dice_ce, or dice_focal for small findings.
        deep_supervision: coarser scores that are trained too.
        mirror: average with the prediction of the image whose left and right are exchanged.
        surface_tolerance_mm: how far apart surfaces may be for surface Dice.
    """

    criterion: str = "dice_ce"
    deep_supervision: int = 0
    mirror: bool = False
    surface_tolerance_mm: float = 1.0

    axis: ClassVar[str] = "segmentation"
    requirement: ClassVar[str] = "labels"
    measures_mm: ClassVar[bool] = True
    metric: ClassVar[str] = "dice"
    selection_metric: ClassVar[str] = "dice_present"
    max_val_cases: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise UsageError(
                f"task_options: expected criterion dice_ce or dice_focal, got '{self.criterion}'"
            )
        if self.deep_supervision < 0 or self.surface_tolerance_mm < 0:
            raise UsageError(
                "task_options: expected deep_supervision and surface_tolerance_mm of 0 or more, got "
                f"{self.deep_supervision} and {self.surface_tolerance_mm:g}"
            )

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether it has a label volume."""
        return volume.label is not None

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return no class: what a label holds is known only when it is read."""
        return frozenset()

    def validate(
        self, volumes: tuple[VolumeRecord, ...], log: Callable[[str], None]
    ) -> tuple[VolumeRecord, ...]:
        """Return the rows as they are: ingestion compared each label with its image."""
        return volumes

    def view(self, dims: int) -> View:
        """Return that patches are seen, at the resolution of the label."""
        return "patch"

    def names(self, dataset: Dataset, train: Sequence[VolumeRecord], volumes: VolumeLoader) -> dict[int, str]:
        """Return the dataset's names, and `label_<value>` for values that have none."""
        names = dict(dataset.info.label_names)
        for volume in train:
            label = volumes(volume).label
            if label is not None:
                values = torch.unique(label).tolist()
                names |= {value: f"label_{value}" for value in values if value and value not in names}
        if not names:
            raise DataError("all training labels are empty: nothing to learn", reason="label_empty")
        if max(names) > _LARGEST:
            raise DataError(
                f"labels hold class numbers up to {max(names)}, expected at most {_LARGEST}: a network has "
                "an output for every number; number the classes from 1 and ingest again",
                reason="label_too_large",
            )
        return names

    def head(
        self,
        encoder: Encoder,
        train: Sequence[VolumeRecord],
        context: EvaluationContext,
        log: Callable[[str], None],
    ) -> dict[str, Any]:
        """Return the network's options."""
        return {"deep_supervision": self.deep_supervision}

    def training_samples(
        self, train: Sequence[VolumeRecord], context: EvaluationContext, *, foreground: float
    ) -> TrainingSamples:
        """Return patches, a share of them around foreground."""
        return TrainingSamples(segmentation_patches(context.plan, foreground=foreground), labelled=True)

    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return Dice and cross entropy (or focal loss), halved from each resolution to the next coarser."""
        scores = [level.float() for level in network.deep_scores(batch["image"])]
        loss: Tensor = DeepSupervisionLoss(batch_dice(self.criterion))(scores, batch["label"].float())
        return loss

    def evaluate(
        self, network: nn.Module, cases: Sequence[VolumeRecord], context: EvaluationContext, *, final: bool
    ) -> list[Row]:
        """Return a row for each case and class; surface distances take most of the time."""
        network.eval()
        scores: list[CaseScore] = []
        for case in cases:
            scores += score_volume(
                network,
                case,
                context.volumes,
                names=context.names,
                precision=context.precision,
                mirror=self.mirror,
                tolerance_mm=self.surface_tolerance_mm if final else None,
            )
        return [{"metric": self.metric, **score.row()} for score in scores]

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return Dice, HD95 and surface Dice, of all classes together and of each."""
        return mean_scores(rows)

    def figure(
        self, network: nn.Module, cases: Sequence[VolumeRecord], context: EvaluationContext, *, title: str
    ) -> bytes:
        """Return slices with image, label and prediction."""
        network.eval()
        rows = []
        for case in cases:
            prepared = context.volumes(case)
            if prepared.label is not None:
                guess = segment(
                    network, prepared, context.plan, precision=context.precision, mirror=self.mirror
                )
                image, label = prepared.image[0], prepared.label[0].long()
                rows.append(segmentation_row(image, label, guess.argmax(dim=0), axis=prepared.slice_axis))
        names = [context.names.get(value, "") for value in range(1, max(context.names) + 1)]
        return panel(rows, ["image", "label", "prediction"], title=title, names=names)
