"""The segmentation task: patches around labels, Dice losses, and metrics of whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from monai.losses.ds_loss import DeepSupervisionLoss
from torch import Tensor, nn

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.formats.labels import NOT_ANNOTATED
from medmim.data.loading.augmentation import load_augmentation
from medmim.data.loading.fingerprint import Fingerprint
from medmim.data.loading.foreground_sampling import IGNORE, foreground_shares
from medmim.data.loading.patches import segmentation_patches
from medmim.data.loading.preprocessing_plan import View
from medmim.encoders import Encoder
from medmim.errors import DataError, UsageError
from medmim.methods.dice_loss import CRITERIA
from medmim.shapes import Scalar
from medmim.training.evaluation.figures import panel, segmentation_row
from medmim.training.evaluation.postprocessing import choose_postprocessing
from medmim.training.evaluation.segmentation_inference import segment
from medmim.training.evaluation.segmentation_metrics import mean_scores, score_volume
from medmim.training.tasks.base import EvaluationContext, Row, Task, TrainingSamples
from medmim.training.tasks.known_label_loss import ANNOTATED, KnownLabelLoss

_MAX_CLASSES = IGNORE - 1  # class indices are stored in a byte
_AUGMENT = "nnunet"
_RAREST = 3


@dataclass(frozen=True)
class Segmentation(Task):
    """A class for every voxel, evaluated on the label's own grid.

    Attributes:
        criterion: dice_ce, or dice_focal for small findings.
        deep_supervision: number of coarser decoder maps with a loss of their own.
        halved: whether full resolution has half the channels of the finest map of the encoder.
        mirror: average predictions over the mirroring axes of the plan.
        surface_tolerance_mm: tolerance of surface Dice.
        labels: label values of each class, where classes are merged; other values are background. A merged
            class is written as its first value.
        annotated_classes: classes that were annotated in each source of a dataset of several sources; in
            other sources, all were. A voxel labelled background may belong to the other classes.
    """

    criterion: str = "dice_ce"
    deep_supervision: int = 2
    halved: bool = False
    mirror: bool = True
    surface_tolerance_mm: float = 1.0
    labels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    annotated_classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

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
        values = [value for own in self.labels.values() for value in own]
        if len(set(values)) < len(values) or 0 in values or not all(self.labels.values()):
            raise UsageError(
                "labels: expected values other than 0 of each class, each of them once, such as "
                f"{{tumour: [1, 2, 4]}}; got {dict(self.labels)}"
            )

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether the image has a label volume."""
        return volume.label is not None

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return no class: the classes of a label are known only after reading it."""
        return frozenset()

    def validate(
        self, volumes: tuple[VolumeRecord, ...], log: Callable[[str], None]
    ) -> tuple[VolumeRecord, ...]:
        """Return the rows unchanged: ingestion validates labels."""
        return volumes

    def view(self, dims: int) -> View:
        """Return patches, at the resolution of the label."""
        return "patch"

    def names(
        self, dataset: Dataset, train: Sequence[VolumeRecord], fingerprint: Fingerprint
    ) -> dict[int, str]:
        """Return the dataset's names, and `label_<code>` for codes without a name."""
        return dict(enumerate(self._values(dataset, fingerprint), start=1))

    def label_codes(self, dataset: Dataset, fingerprint: Fingerprint) -> tuple[int, ...]:
        """Return the codes of the dataset and of the training labels in ascending order.

        Raises:
            DataError: if all training labels are empty, or there are more classes than a byte can number.
        """
        return tuple(values[0] for values in self._values(dataset, fingerprint).values())

    def label_classes(self, dataset: Dataset, fingerprint: Fingerprint) -> tuple[tuple[int, int], ...] | None:
        """Return pairs of a label value and its class if classes are merged, otherwise None."""
        classes = enumerate(self.labels.values(), start=1)
        return tuple((value, number) for number, own in classes for value in own) or None

    def notes(self, dataset: Dataset, fingerprint: Fingerprint, names: Mapping[int, str]) -> list[str]:
        """Return classes without training voxels, and the share of foreground patches on each class."""
        values, lines = self._values(dataset, fingerprint), []
        class_of = {value: name for name, own in values.items() for value in own}
        seen = {class_of.get(code) for code in fingerprint.codes()}
        unseen = [
            f"'{name}' ({', '.join(map(str, own))})" for name, own in values.items() if name not in seen
        ]
        if unseen:
            lines.append(f"warning: no training label contains {', '.join(unseen)}: it cannot be predicted")
        left_out = [str(code) for code in fingerprint.codes() if code not in class_of]
        if left_out:
            lines.append(
                f"warning: label values {', '.join(left_out)} are background: `labels` leaves them out"
            )
        if not self.labels and list(class_of) == [*range(1, len(class_of)), NOT_ANNOTATED]:
            lines.append(
                f"warning: label value {NOT_ANNOTATED} is trained as a class; if nobody annotated these "
                f"voxels, use --set ignore_label={NOT_ANNOTATED}"
            )
        lines += self._annotation_lines(dataset, values)
        number = {name: place for place, name in names.items()}
        cases = [
            {number[class_of[code]] for code in codes if code in class_of} for codes in fingerprint.cases
        ]
        shares = foreground_shares([sorted(classes) for classes in cases])
        if len(shares) > 1:
            rarest = sorted(shares, key=lambda one: shares[one])[:_RAREST]
            listed = ", ".join(f"{names[one]} {shares[one]:.1%}" for one in rarest)
            lines.append(
                f"foreground patches are centred on each class of a volume equally often; rarest: {listed}"
            )
        return lines

    def _annotation_lines(self, dataset: Dataset, names: Collection[str]) -> list[str]:
        """Return what is annotated in each source.

        Raises:
            UsageError: for an unknown source or class.
        """
        sources = {volume.source for volume in dataset.volumes if volume.source}
        wrong = sorted(self.annotated_classes.keys() - sources)
        wrong += [one for own in self.annotated_classes.values() for one in own if one not in names]
        if wrong:
            raise UsageError(
                f"annotated_classes: expected sources ({', '.join(sorted(sources)) or 'none'}) and their "
                f"classes ({', '.join(names)}), got {', '.join(wrong)}"
            )
        return [
            f"only {', '.join(own)} annotated in source '{source}': background there may be any other class"
            for source, own in self.annotated_classes.items()
        ]

    def _values(self, dataset: Dataset, fingerprint: Fingerprint) -> dict[str, tuple[int, ...]]:
        """Return the label values of each class."""
        if not fingerprint.classes:
            raise DataError(
                "all training labels are empty: expected at least one class", reason="label_empty"
            )
        known = {*dataset.info.label_codes, *dataset.info.label_names, *fingerprint.codes()}
        codes = sorted(known - {0, fingerprint.ignore})
        unknown = [value for own in self.labels.values() for value in own if value not in codes]
        if unknown:
            raise UsageError(
                f"labels: no label has the value {', '.join(map(str, unknown))}; expected "
                f"{', '.join(map(str, codes))}"
            )
        if len(self.labels or codes) > _MAX_CLASSES:
            raise DataError(
                f"labels have {len(codes)} classes, expected at most {_MAX_CLASSES}: merge some of them",
                reason="label_too_large",
            )
        names = dataset.info.label_names
        found = {name: tuple(own) for name, own in self.labels.items()}
        return found or {names.get(code, f"label_{code}"): (code,) for code in codes}

    def head(
        self,
        encoder: Encoder,
        train: Sequence[VolumeRecord],
        context: EvaluationContext,
        log: Callable[[str], None],
    ) -> dict[str, Any]:
        """Return the network's options."""
        return {"deep_supervision": self.deep_supervision, "halved": self.halved}

    def training_samples(
        self,
        train: Sequence[VolumeRecord],
        context: EvaluationContext,
        *,
        foreground: float,
        augment: str | None = None,
    ) -> TrainingSamples:
        """Return patches, a share of them around foreground, balanced over classes."""
        augmentation = load_augmentation(augment or _AUGMENT)
        patches = segmentation_patches(context.plan, foreground=foreground, augmentation=augmentation)
        return TrainingSamples(
            patches, labelled=True, targets=lambda volume, _: self.annotated(volume, context.names)
        )

    def annotated(self, volume: VolumeRecord, names: Mapping[int, str]) -> dict[str, Tensor]:
        """Return whether background and each class were annotated; nothing if all were in every source."""
        if not self.annotated_classes:
            return {}
        own = self.annotated_classes.get(volume.source or "", tuple(names.values()))
        known = [names.get(number) in own for number in range(1, max(names) + 1)]
        return {ANNOTATED: torch.tensor([True, *known])}

    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return Dice plus cross entropy or focal loss; the weight halves with each coarser resolution."""
        scores = [level.float() for level in network.deep_scores(batch["image"])]
        loss: Tensor = DeepSupervisionLoss(KnownLabelLoss(self.criterion, batch.get(ANNOTATED)))(
            scores, batch["label"].float()
        )
        return loss

    def evaluate(
        self, network: nn.Module, cases: Sequence[VolumeRecord], context: EvaluationContext, *, final: bool
    ) -> list[Row]:
        """Return a row for each case and class; surface distances only if `final`."""
        network.eval()
        rows: list[Row] = []
        for case in cases:
            scores = score_volume(
                network,
                case,
                context.volumes,
                names=context.names,
                precision=context.precision,
                mirror=self.mirror,
                tolerance_mm=self.surface_tolerance_mm if final else None,
                rules=context.tuned.get("postprocessing", {}),
            )
            own = self.annotated_classes.get(case.source or "")
            partial: Row = {} if own is None else {"dice_any": None}
            known = [score for score in scores if own is None or score.label in own]
            rows += [{"metric": self.metric, **score.row(), **partial} for score in known]
        return rows

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return the postprocessing of each class, if one raises the Dice of the validation patients."""
        rules = choose_postprocessing(rows)
        return {"postprocessing": rules} if rules else {}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return Dice, HD95 and surface Dice of all classes together and of each class."""
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
