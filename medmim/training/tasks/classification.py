"""The classification task: whole images, loss with label smoothing and mixup, class probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from monai.transforms.croppad.array import SpatialPad
from torch import Tensor, nn
from torch.nn import functional as F

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.augmentation import load_augmentation
from medmim.data.loading.finite_checks import load_finite
from medmim.data.loading.patches import CLASSIFICATION_AUGMENTATION, classification_patches
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, View
from medmim.encoders import Encoder
from medmim.errors import DataError, UsageError
from medmim.shapes import Scalar
from medmim.training.evaluation.classification_metrics import class_means, temperature
from medmim.training.evaluation.figures import classification_figure
from medmim.training.evaluation.inference import mirrored
from medmim.training.evaluation.panels import caption_row, panel
from medmim.training.precision import autocast
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

ClassScores = Float[Tensor, " classes"]
_BATCH = 16  # slices in one forward pass


@dataclass(frozen=True)
class WholeImageTask(Task):
    """A task that sees whole images and has no use for label volumes.

    Its options are declared by each task again, from where the page of settings reads them.
    """

    dropout: float = 0.2
    mirror: bool = True

    max_val_volumes: ClassVar[int] = 400
    max_val_pictures: ClassVar[int] = 400

    @abstractmethod
    def target(self, volume: VolumeRecord, names: Mapping[int, str]) -> Tensor:
        """Return what the network shall predict for an image."""

    @abstractmethod
    def result(self, case: VolumeRecord, scores: ClassScores, context: EvaluationContext) -> Row:
        """Return the truth and the prediction of an image as JSON values, from the outputs of the network."""

    @abstractmethod
    def caption(self, case: VolumeRecord, row: Row) -> str:
        """Return the truth and the prediction of an image for a figure."""

    def sampling_weights(self, train: Cases) -> list[float] | None:
        """Return the relative frequency of each training image; None: equal."""
        return None

    def validate(self, volumes: Volumes, log: LogLine) -> Volumes:
        """Remove the label volumes, which are not used."""
        return tuple(volume.model_copy(update={"label": None}) for volume in volumes)

    def view(self, dims: int) -> View:
        """Return `whole`: the answer may depend on any part of the image."""
        return "whole"

    def head(self, encoder: Encoder, train: Cases, context: EvaluationContext, log: LogLine) -> Options:
        """Return the network's options."""
        if context.plan.view != "whole":
            raise UsageError(
                f"{self.axis} sees whole images: leave out field_of_view, or use --set field_of_view=whole"
            )
        return {"dropout": self.dropout}

    def training_samples(
        self,
        train: Cases,
        context: EvaluationContext,
        *,
        foreground: float,
        augment: str | Mapping[str, Any] | None = None,
    ) -> TrainingSamples:
        """Return whole images with their targets."""

        def targets(volume: VolumeRecord, prepared: PreprocessedVolume) -> Mapping[str, Tensor]:
            return {"target": self.target(volume, context.names)}

        patches = classification_patches(
            context.plan, load_augmentation(augment) if augment else CLASSIFICATION_AUGMENTATION
        )
        return TrainingSamples(patches, targets=targets, weights=self.sampling_weights(train))

    def evaluate(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, final: bool) -> Rows:
        """Return the truth and the prediction of every case."""
        options: dict[str, Any] = {"precision": context.precision, "mirror": self.mirror}
        rows: list[Row] = []
        for case in cases:
            scores = classify(network, load_finite(case, context.volumes), context.plan, **options)
            own = {"metric": self.metric, "case": case.id, "subject": case.subject}
            rows.append({**own, **self.result(case, scores, context)})
        return rows

    def figure(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, title: str) -> bytes:
        """Return middle slices with truth and prediction."""
        rows = []
        for row, case in zip(self.evaluate(network, cases, context, final=False), cases, strict=True):
            prepared = context.volumes(case)
            text = self.caption(case, row)
            rows.append(caption_row(prepared.image[0], axis=prepared.slice_axis, text=text))
        return panel(rows, ["image"], title=title)


@dataclass(frozen=True)
class Classification(WholeImageTask):
    """One class for each image; 2D networks average over all slices of a volume.

    Attributes:
        balance: 1: every class is sampled equally often; 0: as often as it occurs.
        label_smoothing: share of the target that is distributed over all classes.
        mixup: parameter of Beta(mixup, mixup) for mixing two images (Zhang et al., ICLR 2018); 0: none.
        dropout: share of pooled features that are dropped in training.
        mirror: average predictions over the mirroring axes of the plan.
        exclusive: train one class for each image, also where the dataset records several; images with several
            classes are left out. Otherwise such a dataset is trained with the task multilabel.
    """

    balance: float = 0.5
    label_smoothing: float = 0.1
    mixup: float = 0.0
    dropout: float = 0.2
    mirror: bool = True
    exclusive: bool = False

    axis: ClassVar[str] = "classification"
    requirement: ClassVar[str] = "a class"
    remedy: ClassVar[str] = "ingest class folders or a class table, or pass --targets FILE.csv --column NAME"
    metric: ClassVar[str] = "macro_f1"
    selection_metric: ClassVar[str] = "macro_f1"

    def __post_init__(self) -> None:
        shares = (self.balance, self.label_smoothing, self.dropout)
        if min(shares) < 0 or max(shares) > 1 or self.mixup < 0:
            raise UsageError(
                "task_options: expected balance, label_smoothing and dropout from 0 to 1 and mixup of 0 or "
                f"more, got {shares} and {self.mixup}"
            )
        if self.exclusive and type(self) is not Classification:
            raise UsageError(f"task_options.exclusive: expected the task classify, got {self.axis}")

    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether the image has a class."""
        return volume.target is not None

    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return the class of the image."""
        return frozenset([str(volume.target)])

    def names(self, dataset: Dataset, train: Cases, fingerprint: object) -> dict[int, str]:
        """Return the classes in alphabetical order."""
        found = sorted({str(volume.target) for volume in train})
        if len(found) < 2:
            raise DataError(
                f"all training images have one class ({found[0]}): expected at least two", reason="one_class"
            )
        return dict(enumerate(found))

    def target(self, volume: VolumeRecord, names: Mapping[int, str]) -> Tensor:
        """Return the index of the class."""
        return torch.tensor(list(names.values()).index(str(volume.target)))

    def sampling_weights(self, train: Cases) -> list[float] | None:
        """Return higher weights for images of rare classes."""
        counts = Counter(volume.target for volume in train)
        return [counts[volume.target] ** -self.balance for volume in train]

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Scalar:
        """Return the mean cost of the batch, with mixup if enabled."""
        images, target = batch["image"], batch["target"]
        other, share = target, 1.0
        if self.mixup:
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
            order = torch.randperm(len(images), device=images.device)
            images, other = share * images + (1 - share) * images[order], target[order]
        scores = network(images).float()
        return share * self.cost(scores, target) + (1 - share) * self.cost(scores, other)

    def cost(self, scores: Float[Tensor, "batch classes"], target: Int[Tensor, " batch"]) -> Scalar:
        """Return the cross entropy of class logits."""
        return F.cross_entropy(scores, target, label_smoothing=self.label_smoothing)

    def result(self, case: VolumeRecord, scores: ClassScores, context: EvaluationContext) -> Row:
        """Return the class, and the probability of each class."""
        shares = torch.softmax(scores / float(context.tuned.get("temperature", 1.0)), dim=0).tolist()
        probabilities = {context.names[number]: share for number, share in enumerate(shares)}
        predicted = max(probabilities, key=lambda name: probabilities[name])
        return {"class": case.target, "correct": predicted == case.target, "probabilities": probabilities}

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return the temperature that calibrates the probabilities."""
        return {"temperature": temperature(rows)}

    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return F1, accuracies, AUROC and calibration error of cases and of patients."""
        return class_means(rows, list(context.names.values()))

    def caption(self, case: VolumeRecord, row: Row) -> str:
        """Return the true and the predicted class."""
        predicted, share = max(row["probabilities"].items(), key=lambda one: one[1])
        return f"{case.target}; predicted {predicted}, {share:.0%}"

    def score_figure(self, rows: Sequence[Row], context: EvaluationContext, *, title: str) -> bytes | None:
        """Return confusion matrix, ROC curves and calibration."""
        return classification_figure(rows, list(context.names.values()), title=title) if rows else None


def classify(
    network: nn.Module, prepared: PreprocessedVolume, plan: PreprocessingPlan, *, precision: str, mirror: bool
) -> Float[Tensor, " classes"]:
    """Return the class logits of one preprocessed image: the mean over its slices in 2D."""
    network.eval()
    device = next(network.parameters()).device
    images = views(prepared, plan)
    pad = SpatialPad(plan.size, mode="constant", value=prepared.background)
    scores = []
    with torch.no_grad(), autocast(precision, device):
        for some in torch.split(images, _BATCH):
            batch = torch.stack([pad(image).as_tensor() for image in some]).to(device)
            scores.append(network(batch).float().cpu())
            for axes in mirrored(prepared, plan) if mirror else ():
                scores.append(network(batch.flip(axes)).float().cpu())
    return torch.cat(scores).mean(dim=0)


def views(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> Float[Tensor, "views channels ..."]:
    """Return the network inputs of one volume: all slices in 2D, the volume itself in 3D."""
    if plan.dims == 3:
        return prepared.image.unsqueeze(0)
    return prepared.image.movedim(prepared.slice_axis + 1, 0)
