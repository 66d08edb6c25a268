"""A kept network as its description tells it: task, weights, plan and names, ready for any volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medmim.data.dataset.channels import group_channels
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.encoders import build_encoder
from medmim.errors import RunError
from medmim.heads import HEADS, build_head
from medmim.training.tasks.base import EvaluationContext, Task
from medmim.training.tasks.registry import build_task
from medmim.training.weights import load_weights

_CACHE_GB = 0.5  # volumes are visited once


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A fine-tuned network with all that its use takes.

    Attributes:
        task: what it does, with the options that it was trained with.
        network: with its weights, not training.
        plan: how volumes are prepared for it.
        names: of the classes, by number.
        description: as `weights.json` has it.
    """

    task: Task
    network: nn.Module
    plan: PreprocessingPlan
    names: Mapping[int, str]
    description: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Name of the task."""
        return str(self.description["kind"])

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return str(self.description["sha256"])

    def cases(self, dataset: Dataset) -> tuple[tuple[VolumeRecord, ...], tuple[VolumeRecord, ...]]:
        """Return what the network reads of a dataset, and the volumes of visits without all its channels."""
        wanted = self.description.get("channels", ())
        return group_channels(dataset.volumes, wanted) if wanted else (dataset.volumes, ())

    def context(self, root: Path) -> EvaluationContext:
        """Return what judging volumes of a dataset folder takes."""
        volumes = VolumeLoader(root, self.plan, cache_gb=_CACHE_GB)
        # whatever processor this is: a prediction should not depend on it
        return EvaluationContext(volumes, self.names, "fp32", self.description.get("chosen", {}))


def load_trained_model(path: Path) -> TrainedModel:
    """Build the network that weights belong to, and fill it.

    Args:
        path: weights as `medmim finetune` keeps them, with their description beside them.

    Raises:
        RunError: if the file is missing or damaged, of a pretrained encoder, or does not fit its description.
    """
    weights, told = load_weights(path)
    if told.get("kind") not in HEADS:
        raise RunError(
            f"weights at '{path}' are those of an encoder alone: expected a model that `medmim finetune` made"
        )
    try:
        dims, names = told["spatial_dims"], {int(value): name for value, name in told["label_names"].items()}
        encoder = build_encoder(
            told["encoder"], spatial_dims=dims, in_channels=told["in_channels"], **told["encoder_options"]
        )
        classes = max(names) + 1
        network = build_head(
            told["kind"], encoder=encoder, spatial_dims=dims, classes=classes, **told["head"]
        )
        network.load_state_dict(weights)
        spacing = told["spacing_mm"]
        plan = PreprocessingPlan(
            dims, tuple(told["size"]), None if spacing is None else tuple(spacing), told["view"]
        )
        task = build_task(told["kind"], **told["task_options"])
    except (KeyError, TypeError, RuntimeError) as error:  # of torch: names or shapes differ
        raise RunError(
            f"weights at '{path}' do not fit their description ({type(error).__name__}): expected the files "
            "of one run, made by this version of medmim"
        ) from error
    return TrainedModel(task, network.eval(), plan, names, told)
