"""What a task is: which images teach it, its loss, how cases are judged and drawn. One object a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from monai.transforms.compose import Compose
from torch import Tensor, nn

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.patches import Targets
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, View
from medmim.encoders import Encoder
from medmim.shapes import Scalar
from medmim.training.evaluation.bootstrap_metrics import Statistic, Weights

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """What judging takes beside a network.

    Attributes:
        volumes: prepares volumes.
        names: of the classes, by number.
        precision: auto, fp32 or bf16.
        chosen: what was chosen on validation cases, such as a threshold; empty before.
    """

    volumes: VolumeLoader
    names: Mapping[int, str]
    precision: str
    tuned: Mapping[str, Any]

    @property
    def plan(self) -> PreprocessingPlan:
        """How volumes are prepared."""
        return self.volumes.plan


@dataclass(frozen=True, eq=False)
class TrainingSamples:
    """What training draws.

    Attributes:
        transform: from a prepared sample to a patch.
        labelled: give the label volume too.
        targets: what else a sample holds.
        weights: how often each volume is drawn; None: equally.
    """

    transform: Compose
    labelled: bool = False
    targets: Targets | None = None
    weights: Sequence[float] | None = None


class Task(ABC):
    """A task with its options; the network and the data are arguments.

    Attributes:
        axis: its word on the survey's axis of downstream tasks (arXiv 2408.06687); a tag of the run.
        needs: what an image must have, for messages.
        otherwise: what to do about images that have none.
        measures_mm: its scores have millimetres, which images without a known spacing do not tell.
        metric: of `means`: what `medmim compare` compares.
        chosen_by: of `means`: whose highest value chooses the weights.
        watched: validation cases that are judged while training.
    """

    axis: ClassVar[str]
    requirement: ClassVar[str]
    hint: ClassVar[str] = ""
    measures_mm: ClassVar[bool] = False
    metric: ClassVar[str]
    selection_metric: ClassVar[str]
    max_val_cases: ClassVar[int]

    @abstractmethod
    def usable(self, volume: VolumeRecord) -> bool:
        """Return whether an image can teach this task."""

    @abstractmethod
    def classes_of(self, volume: VolumeRecord) -> frozenset[str]:
        """Return the classes that an image is known to show before it is read, for drawing few of each."""

    @abstractmethod
    def validate(
        self, volumes: tuple[VolumeRecord, ...], log: Callable[[str], None]
    ) -> tuple[VolumeRecord, ...]:
        """Return the rows with what the task needs of them checked, and without what it need not read.

        Raises:
            DataError: if something cannot be used.
        """

    @abstractmethod
    def view(self, dims: int) -> View:
        """Return how much of an image the task likes to see."""

    @abstractmethod
    def names(self, dataset: Dataset, train: Sequence[VolumeRecord], volumes: VolumeLoader) -> dict[int, str]:
        """Return the classes that the training images hold, by number.

        Raises:
            DataError: if there is nothing to learn.
        """

    @abstractmethod
    def head(
        self,
        encoder: Encoder,
        train: Sequence[VolumeRecord],
        context: EvaluationContext,
        log: Callable[[str], None],
    ) -> dict[str, Any]:
        """Return the options of the network in the table of heads; JSON-able, kept with the weights."""

    @abstractmethod
    def training_samples(
        self, train: Sequence[VolumeRecord], context: EvaluationContext, *, foreground: float
    ) -> TrainingSamples:
        """Return what training draws."""

    @abstractmethod
    def loss(self, network: Any, batch: dict[str, Tensor]) -> Scalar:
        """Return the loss of a batch."""

    @abstractmethod
    def evaluate(
        self, network: nn.Module, cases: Sequence[VolumeRecord], context: EvaluationContext, *, final: bool
    ) -> list[Row]:
        """Return rows of scores, JSON-able, with `metric`, `case` and `subject`.

        Args:
            network: as the table of heads builds it.
            cases: with what the task needs.
            context: how to prepare and name.
            final: measure also what takes time.
        """

    def tune(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, Any]:
        """Return what is to be chosen on validation rows for the test, JSON-able; defaults for no rows."""
        return {}

    @abstractmethod
    def aggregate(self, rows: Sequence[Row], context: EvaluationContext) -> dict[str, float]:
        """Return the finite numbers that sum rows up; none for no rows."""

    def bootstrap_statistic(self, rows: Sequence[Row], context: EvaluationContext) -> Statistic:
        """Return the function from how often each patient counts, in sorted order, to the means."""
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

    @abstractmethod
    def figure(
        self, network: nn.Module, cases: Sequence[VolumeRecord], context: EvaluationContext, *, title: str
    ) -> bytes:
        """Return a PNG with what the network makes of a few cases."""
