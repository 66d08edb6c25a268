"""The segmentation task: patches around labels, Dice losses, and metrics of whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from monai.losses.ds_loss import DeepSupervisionLoss
from torch import Tensor, nn

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.augmentation import load_augmentation
from medmim.data.loading.fingerprint import Fingerprint
from medmim.data.loading.foreground_sampling import patch_counts
from medmim.data.loading.patches import segmentation_patches
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, Regions, View
from medmim.encoders import Encoder
from medmim.errors import UsageError
from medmim.methods.dice_loss import CRITERIA
from medmim.shapes import Scalar
from medmim.training.evaluation.inference import labels_of, membership, segment
from medmim.training.evaluation.panels import panel, segmentation_row
from medmim.training.evaluation.postprocessing import choose_postprocessing
from medmim.training.evaluation.score_segmentations import (
    FinalMetrics,
    PartialLabels,
    mean_scores,
    score_volume,
)
from medmim.training.evaluation.segmentation_metrics import known_metrics
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
from medmim.training.tasks.known_label_loss import ANNOTATED, MEMBERS, KnownLabelLoss
from medmim.training.tasks.label_scheme import LabelScheme, label_scheme

_AUGMENT = "nnunet"
_MEASURED = 32  # volumes whose labels give the share of each class of regions
_RARE = 1e-2  # smallest initial probability of a class, as in RetinaNet (arXiv 1708.02002)


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
        regions: name and members of each region, as in `label_scheme`, to train overlapping regions with
            sigmoid; empty: classes exclude each other.
        annotated_classes: classes that were annotated in each source of a dataset of several sources; in
            other sources, all were. A voxel labelled background may belong to the other classes.
        partially_labelled: classes (or `all`) that were not annotated in a case whose label lacks them.
        metrics: further metrics of tests, such as cldice; all names are in `segmentation_metrics`.
    """

    criterion: str = "dice_ce"
    deep_supervision: int = 2
    halved: bool = False
    mirror: bool = True
    surface_tolerance_mm: float = 1.0
    labels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    regions: Sequence[Sequence[Any]] = ()
    annotated_classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    partially_labelled: Sequence[str] = ()
    metrics: Sequence[str] = ()

    axis: ClassVar[str] = "segmentation"
    requirement: ClassVar[str] = "labels"
    measures_mm: ClassVar[bool] = True
    metric: ClassVar[str] = "dice"
    selection_metric: ClassVar[str] = "dice_present"
    max_val_volumes: ClassVar[int] = 16
    max_val_pictures: ClassVar[int] = 128  # with 16 slices, an early state was selected by chance

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
        known_metrics(self.metrics)
        values = [value for own in self.labels.values() for value in own]
        if len(set(values)) < len(values) or 0 in values or not all(self.labels.values()):
            raise UsageError(
                "labels: expected values other than 0 of each class, each of them once, such as "
                f"{{tumour: [1, 2, 4]}}; got {dict(self.labels)}"
            )
        names = [name for name, _ in self.regions]
        if len(set(names)) < len(names) or not all(members for _, members in self.regions):
            raise UsageError(
                "regions: expected different names, each with label values or names of classes, such as "
                f"{{whole: [1, 2, 3], core: [2, 3]}}; got {', '.join(map(str, names))}"
            )

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether the image has a label volume."""
        return volume.label is not None

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return no class: the classes of a label are known only after reading it."""
        return frozenset()

    def validate(self, volumes: Volumes, log: LogLine) -> Volumes:
        """Return the rows unchanged: ingestion validates labels."""
        return volumes

    def view(self, dims: int) -> View:
        """Return patches, at the resolution of the label."""
        return "patch"

    def names(self, dataset: Dataset, train: Cases, fingerprint: Fingerprint) -> dict[int, str]:
        """Return the dataset's names, and `label_<code>` for codes without a name."""
        return self._scheme(dataset, fingerprint).names

    def with_labels(
        self, plan: PreprocessingPlan, dataset: Dataset, fingerprint: Fingerprint
    ) -> PreprocessingPlan:
        """Return the plan with the values of the classes and with the regions."""
        scheme = self._scheme(dataset, fingerprint)
        return replace(
            plan,
            label_codes=scheme.codes,
            ignore_label=fingerprint.ignore,
            label_classes=scheme.pairs,
            regions=scheme.regions,
        )

    def notes(self, dataset: Dataset, fingerprint: Fingerprint, names: Mapping[int, str]) -> list[str]:
        """Return lines about classes, regions and what is annotated."""
        lines = self._scheme(dataset, fingerprint).lines(fingerprint)
        return [*lines, *self._annotation_lines(dataset, names.values())]

    def _scheme(self, dataset: Dataset, fingerprint: Fingerprint) -> LabelScheme:
        return label_scheme(dataset, fingerprint, labels=self.labels, regions=self.regions)

    def _annotation_lines(self, dataset: Dataset, names: Collection[str]) -> list[str]:
        """Return what is annotated in each source and case."""
        absent = [one for one in self.partially_labelled if one not in (*names, "all")]
        if absent:
            raise UsageError(
                f"partially_labelled: expected all, or some of {', '.join(names)}; got {', '.join(absent)}"
            )
        sources = {volume.source for volume in dataset.volumes if volume.source}
        wrong = sorted(self.annotated_classes.keys() - sources)
        wrong += [one for own in self.annotated_classes.values() for one in own if one not in names]
        if wrong:
            raise UsageError(
                f"annotated_classes: expected sources ({', '.join(sorted(sources)) or 'none'}) and their "
                f"classes ({', '.join(names)}), got {', '.join(wrong)}"
            )
        in_cases = (
            [f"{', '.join(self.partially_labelled)} may occur in images whose labels do not include them"]
            if self.partially_labelled
            else []
        )
        return in_cases + [
            f"only {', '.join(own)} annotated in source '{source}': background there may be any other class"
            for source, own in self.annotated_classes.items()
        ]

    def head(self, encoder: Encoder, train: Cases, context: EvaluationContext, log: LogLine) -> Options:
        """Return the network's options; the outputs of regions start at the frequencies of their classes.

        From equal probabilities, a short training would mostly learn that most voxels are background (Lin et
        al., ICCV 2017). Frequencies are counted in patches around each class, as training draws them.
        """
        options: Options = {"deep_supervision": self.deep_supervision, "halved": self.halved}
        regions = context.plan.regions
        if regions is None:
            return options
        counts = torch.zeros(len(regions) + 1)
        for volume in train[:: -(-len(train) // _MEASURED)]:
            prepared = context.volumes(volume)
            assert prepared.label is not None  # only labelled volumes train
            assert prepared.places is not None
            size = list(context.plan.size)
            if context.plan.dims == 2:
                size.insert(prepared.slice_axis, 1)
            counts += patch_counts(prepared.label, prepared.places, size, classes=len(counts))
        shares = (counts / counts.sum()).clamp(min=_RARE)
        priors = [round(float(share), 6) for share in shares]
        return {**options, "regions": [list(own) for _, own in regions], "priors": priors}

    def training_samples(
        self,
        train: Cases,
        context: EvaluationContext,
        *,
        foreground: float,
        augment: str | Mapping[str, Any] | None = None,
    ) -> TrainingSamples:
        """Return patches, a share of them around foreground, balanced over classes."""
        augmentation = load_augmentation(augment or _AUGMENT)
        patches = segmentation_patches(context.plan, foreground=foreground, augmentation=augmentation)
        return TrainingSamples(
            patches,
            labelled=True,
            targets=partial(self.known, names=context.names, regions=context.plan.regions),
        )

    def known(
        self,
        volume: VolumeRecord,
        prepared: PreprocessedVolume,
        names: Mapping[int, str],
        regions: Regions | None,
    ) -> dict[str, Tensor]:
        """Return the entries of a sample for the loss: members of regions, and annotated classes."""
        found = {} if regions is None else {MEMBERS: membership(regions)}
        if self.annotated_classes or self.partially_labelled:
            assert prepared.places is not None  # only labelled volumes train
            present = set(prepared.places[:, 0].tolist())
            unknown = self._partial(volume, names).unknown(present)
            found[ANNOTATED] = torch.tensor([number not in unknown for number in range(max(names) + 1)])
        return found

    def _partial(self, volume: VolumeRecord, names: Mapping[int, str]) -> PartialLabels:
        """Return which classes the label of a volume may lack although the image shows them."""
        own = self.annotated_classes.get(volume.source or "", tuple(names.values()))
        drawn = names.values() if "all" in self.partially_labelled else self.partially_labelled
        return PartialLabels(
            frozenset(number for number, name in names.items() if name not in own),
            frozenset(number for number, name in names.items() if name in drawn),
        )

    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return Dice plus cross entropy or focal loss; the weight halves with each coarser resolution."""
        scores = [level.float() for level in network.deep_scores(batch["image"])]
        regions = batch[MEMBERS][0] if MEMBERS in batch else None
        one = KnownLabelLoss(self.criterion, batch.get(ANNOTATED), regions)
        loss: Tensor = DeepSupervisionLoss(one)(scores, batch["label"].float())
        return loss

    def evaluate(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, final: bool) -> Rows:
        """Return a row for each case and class or region; surface distances only if `final`."""
        segments = self._segments(network, context)
        rows: list[Row] = []
        for case in cases:
            scores = score_volume(
                segments,
                case,
                context.volumes,
                names=context.names,
                final=FinalMetrics(self.surface_tolerance_mm, self.metrics) if final else None,
                rules=context.tuned.get("postprocessing", {}),
                partial=self._partial(case, context.names),
            )
            rows += [{"metric": self.metric, **score.row()} for score in scores]
        return rows

    def _segments(
        self, network: nn.Module, context: EvaluationContext
    ) -> Callable[[PreprocessedVolume], Tensor]:
        """Return the function from a volume to its probabilities."""
        classes = len(context.names) + 1
        options: dict[str, Any] = {"precision": context.precision, "mirror": self.mirror, "classes": classes}
        return partial(segment, network.eval(), plan=context.plan, **options)

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return the postprocessing of each class, if one raises the Dice of the validation patients."""
        rules = choose_postprocessing(rows)
        return {"postprocessing": rules} if rules else {}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return Dice, HD95 and surface Dice of all classes together and of each class."""
        return mean_scores(rows)

    def figure(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, title: str) -> bytes:
        """Return slices with image, label and prediction."""
        segments, rows = self._segments(network, context), []
        for case in cases:
            prepared = context.volumes(case)
            if prepared.label is not None:
                image, label = prepared.image[0], prepared.label[0].long()
                found = labels_of(segments(prepared), context.plan.regions)
                rows.append(segmentation_row(image, label, found, axis=prepared.slice_axis))
        names = [context.names.get(value, "") for value in range(1, max(context.names) + 1)]
        return panel(rows, ["image", "label", "prediction"], title=title, names=names)
