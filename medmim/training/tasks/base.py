"""The interface of a fine-tuning task: training samples, loss, evaluation and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from monai.transforms.compose import Compose
from torch import Tensor, nn

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.fingerprint import Fingerprint
from medmim.data.loading.patches import Targets
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, View
from medmim.encoders import Encoder
from medmim.shapes import Scalar
from medmim.training.evaluation.metric_intervals import Statistic, Weights

Row = dict[str, Any]
Rows = list[Row]
Options = dict[str, Any]  # JSON values
Volumes = tuple[VolumeRecord, ...]
Cases = Sequence[VolumeRecord]
LogLine = Callable[[str], None]  # receives a line for the user


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """Data and options for evaluating a network.

    Attributes:
        tuned: values chosen on validation cases, such as thresholds; empty before tuning.
        progress: receives the number of finished windows of a volume, and of all.
    """

    volumes: VolumeLoader
    names: Mapping[int, str]
    precision: str
    tuned: Mapping[str, Any]
    progress: Callable[[int, int], None] | None = None

    @property
    def plan(self) -> PreprocessingPlan:
        """The preprocessing plan."""
        return self.volumes.plan


@dataclass(frozen=True, eq=False)
class TrainingSamples:
    """How training samples are made.

    Attributes:
        transform: makes a patch of a preprocessed volume.
        weights: relative frequency of each volume; None: equal.
    """

    transform: Compose
    labelled: bool = False
    targets: Targets | None = None
    weights: Sequence[float] | None = None


class Task(ABC):
    """A task with its options; network and data are arguments.

    Attributes:
        axis: downstream task in the taxonomy of arXiv 2408.06687; a tag of the run.
        requirement: what a training image must have, for messages.
        remedy: how images get it, for messages.
        hint: advice for images without it, for messages.
        measures_mm: whether metrics are in millimetres and need a known spacing.
        metric: key of `aggregate` that `medmim compare` compares.
        selection_metric: key of `aggregate` whose highest value selects the weights.
        max_val_volumes: largest number of 3D validation cases evaluated during training.
        max_val_pictures: the same for 2D cases, which cost less and vary more.
    """

    axis: ClassVar[str]
    requirement: ClassVar[str]
    remedy: ClassVar[str] = "ingest them with --labels DIR, or as a layout that has them"
    hint: ClassVar[str] = ""
    measures_mm: ClassVar[bool] = False
    metric: ClassVar[str]
    selection_metric: ClassVar[str]
    max_val_volumes: ClassVar[int]
    max_val_pictures: ClassVar[int]

    @abstractmethod
    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether an image has what the task requires."""

    @abstractmethod
    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return the classes of an image that are known from the manifest, for balanced subsets."""

    @abstractmethod
    def validate(self, volumes: Volumes, log: LogLine) -> Volumes:
        """Check the annotations that the task uses and remove those that it does not read.

        Raises:
            DataError: for an invalid annotation.
        """

    @abstractmethod
    def view(self, dims: int) -> View:
        """Return the default field of view."""

    @abstractmethod
    def names(self, dataset: Dataset, train: Cases, fingerprint: Fingerprint) -> dict[int, str]:
        """Return the class names by index.

        Raises:
            DataError: if the training images have too few classes.
        """

    def with_labels(
        self, plan: PreprocessingPlan, dataset: Dataset, fingerprint: Fingerprint
    ) -> PreprocessingPlan:
        """Return the plan with what the task reads of label volumes; nothing by default."""
        return plan

    def notes(self, dataset: Dataset, fingerprint: Fingerprint, names: Mapping[int, str]) -> list[str]:
        """Return lines about the training data for the user, before training starts."""
        return []

    @abstractmethod
    def head(self, encoder: Encoder, train: Cases, context: EvaluationContext, log: LogLine) -> Options:
        """Return the options of the network in `HEADS`, as JSON values that are saved with the weights."""

    @abstractmethod
    def training_samples(
        self,
        train: Cases,
        context: EvaluationContext,
        *,
        foreground: float,
        augment: str | Mapping[str, Any] | None = None,
    ) -> TrainingSamples:
        """Return how training samples are made; `augment` is as `load_augmentation` takes it."""

    @abstractmethod
    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return the loss of a batch."""

    @abstractmethod
    def evaluate(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, final: bool) -> Rows:
        """Return rows of metrics as JSON values, with `metric`, `case` and `subject`.

        Metrics that take long to compute are included only if `final`.
        """

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return values chosen on validation rows, as JSON values; defaults without rows."""
        return {}

    @abstractmethod
    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return the finite aggregate metrics of rows; empty without rows."""

    def weighted_statistic(self, rows: Sequence[Row], context: EvaluationContext) -> Statistic:
        """Return a function that computes `aggregate` from the multiplicity of each patient (sorted)."""
        patients = sorted({str(row["subject"]) for row in rows})
        own = [[row for row in rows if row["subject"] == who] for who in patients]

        def means(weights: Weights) -> dict[str, float]:
            drawn = [
                {**row, "subject": f"{number}/{copy}"}
                for number, times in enumerate(weights)
                for copy in range(int(times))
                for row in own[number]
            ]
            return self.aggregate(drawn, context)

        return means

    def unscored(self, cases: Cases, names: Iterable[str]) -> list[str]:
        """Return a line for each of the trained classes whose score these cases leave undefined."""
        return []

    @abstractmethod
    def figure(self, network: nn.Module, cases: Cases, context: EvaluationContext, *, title: str) -> bytes:
        """Return a PNG with predictions for a few cases."""

    def score_figure(self, rows: Sequence[Row], context: EvaluationContext, *, title: str) -> bytes | None:
        """Return a PNG that summarises the test, or None if the task has none."""
        return None
