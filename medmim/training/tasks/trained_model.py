"""A trained model or encoder, rebuilt from its weights and description."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medmim.data.dataset.channels import group_channels
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_of_model
from medmim.encoders import Encoder, build_encoder
from medmim.errors import RunError, UsageError
from medmim.heads import HEADS, build_head, transfer
from medmim.shapes import Images
from medmim.training.tasks.base import EvaluationContext, Task
from medmim.training.tasks.registry import build_task
from medmim.training.weights import load_weights

DROPOUT = "channel_dropout"  # in the description of a model
_CACHE_GB = 0.5  # each volume is read once
_OWN_OF_SEGMENTERS = ("size", "spacing_mm", "common_mm", "normalisation", "mirror_axes")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A fine-tuned network with everything needed to use it.

    Attributes:
        others: further members of an ensemble of segmenters, each with its own preprocessing.
    """

    task: Task
    network: nn.Module
    plan: PreprocessingPlan
    names: Mapping[int, str]
    description: Mapping[str, Any]
    others: tuple[TrainedModel, ...] = ()

    @property
    def codes(self) -> dict[int, int]:
        """Value of each class in label files."""
        codes = self.plan.label_codes
        return {number: number if codes is None else codes[number - 1] for number in self.names}

    def coded(self, classes: np.ndarray) -> np.ndarray:
        """Return class indices as the values of label files, in the smallest unsigned type."""
        table = np.array([0, *(self.codes.get(number, 0) for number in range(1, max(self.names) + 1))])
        smallest = np.min_scalar_type(int(table.max())) if table.min() >= 0 else np.int32
        return np.asarray(table.astype(smallest)[classes])

    @property
    def kind(self) -> str:
        """Name of the task."""
        return str(self.description["kind"])

    @property
    def channels(self) -> tuple[str, ...]:
        """Tokens of each input channel; none for one volume per case."""
        return tuple(self.description.get("channels", ()))

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights."""
        return str(self.description["sha256"])

    def summary(self, title: str) -> dict[str, str]:
        """Return what is written about the model beside its predictions."""
        about = {"name": title, "task": self.kind, "sha256": self.sha256}
        return about | ({"channels": ",".join(self.channels)} if self.channels else {})

    def cases(
        self, dataset: Dataset, *, incomplete: bool = False
    ) -> tuple[tuple[VolumeRecord, ...], tuple[VolumeRecord, ...]]:
        """Return the cases of a dataset, and the volumes of visits that lack a channel of the model.

        With `incomplete`, such visits are cases too, if the model was trained with channel dropout.
        """
        if not self.channels:
            return dataset.volumes, ()
        dropped = bool(self.description.get(DROPOUT))
        return group_channels(dataset.volumes, self.channels, incomplete=incomplete and dropped)

    @contextmanager
    def without_channels(self, missing: Sequence[int]) -> Iterator[None]:
        """Replace input channels of the network by 0, padding included, as channel dropout does."""

        def without(_network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            images = inputs[0].clone()
            images[:, list(missing)] = 0
            return (images, *inputs[1:])

        members = (self, *self.others) if missing else ()
        hooks = [one.network.register_forward_pre_hook(without) for one in members]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def context(self, root: Path) -> EvaluationContext:
        """Return the context for evaluating volumes of a dataset folder."""
        volumes = VolumeLoader(root, self.plan, cache_gb=_CACHE_GB)
        # fp32 on any hardware, so that predictions do not depend on it
        return EvaluationContext(volumes, self.names, "fp32", self.description.get("chosen", {}))


class AveragedOutputs(nn.Module):
    """The mean of the outputs of several networks."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Images) -> Tensor:
        """Return logits, (batch, channels, ...)."""
        return torch.stack([network(images).float() for network in self.networks]).mean(dim=0)


def ensemble_of(models: Sequence[TrainedModel]) -> TrainedModel:
    """Return a model that averages the probabilities of several segmenters, or the outputs of classifiers.

    Segmenters may differ in their preprocessing, as those of several folds do. Only postprocessing rules that
    all models share are applied; temperature and thresholds are means.

    Raises:
        UsageError: for detectors, or models that differ in what they expect of an image.
    """
    first = models[0]
    if len(models) == 1:
        return first
    if first.kind == "detect":
        raise UsageError("--model: boxes of several detectors cannot be averaged; give one model")
    expected = _expectations(first)
    for number, other in enumerate(models[1:], start=2):
        differing = [key for key, value in _expectations(other).items() if value != expected[key]]
        if differing:
            raise UsageError(
                f"--model: model {number} differs from the first in {', '.join(differing)}; expected models "
                "of the same task, classes and preprocessing, such as other seeds of one training"
            )
    found = [model.description.get("chosen", {}) for model in models]
    chosen: dict[str, Any] = {}
    if all("temperature" in one for one in found):
        chosen["temperature"] = float(np.mean([one["temperature"] for one in found]))
    if all("thresholds" in one for one in found):
        names = first.names.values()
        chosen["thresholds"] = {
            name: float(np.mean([one["thresholds"][name] for one in found])) for name in names
        }
    rules = [one.get("postprocessing", {}) for one in found]
    shared = {name: rule for name, rule in rules[0].items() if all(one.get(name) == rule for one in rules)}
    chosen |= {"postprocessing": shared} if shared else {}
    digest = hashlib.sha256("".join(model.sha256 for model in models).encode()).hexdigest()
    dropout = min(model.description.get(DROPOUT, 0.0) for model in models)
    description = {**first.description, "chosen": chosen, "sha256": digest, DROPOUT: dropout}
    if first.kind == "segment":
        return replace(first, others=tuple(models[1:]), description=description)
    network = AveragedOutputs([model.network for model in models]).eval()
    return replace(first, network=network, description=description)


def _expectations(model: TrainedModel) -> dict[str, Any]:
    """Return what members of an ensemble must share."""
    inputs = {key: model.description.get(key) for key in ("spatial_dims", "in_channels", "channels")}
    own = _OWN_OF_SEGMENTERS if model.kind == "segment" else ()
    plan = {key: value for key, value in model.plan.as_json().items() if key not in own}
    return {"task": model.kind, "classes": dict(model.names), **inputs, **plan}


# raised by torch for other names and shapes, and by networks for values that they cannot be built from
_MISMATCH = (
    *(LookupError, TypeError, ValueError, RuntimeError),
    *(AttributeError, ArithmeticError, AssertionError),
)


def load_trained_model(path: Path) -> TrainedModel:
    """Load a model saved by `medmim finetune`.

    Raises:
        RunError: if the file is missing or damaged, contains only an encoder, or does not match its
            description.
    """
    weights, description = load_weights(path)
    if description.get("kind") not in HEADS:
        raise RunError(
            f"weights at '{path}' contain only an encoder: expected a model saved by `medmim finetune`"
        )
    try:
        dims, names = (
            description["spatial_dims"],
            {int(value): name for value, name in description["label_names"].items()},
        )
        encoder = build_encoder(
            description["encoder"],
            spatial_dims=dims,
            in_channels=description["in_channels"],
            **description["encoder_options"],
        )
        plan = plan_of_model(description)
        network = build_head(
            description["kind"],
            encoder=encoder,
            spatial_dims=dims,
            classes=plan.channels(names),
            **description["head"],
        )
        network.load_state_dict(weights)
        # earlier versions did not mirror when segmenting
        earlier = (
            {"mirror": False} if description["kind"] == "segment" and "mirror_axes" not in description else {}
        )
        task = build_task(description["kind"], **{**earlier, **description["task_options"]})
    except _MISMATCH as error:
        raise RunError(
            f"weights at '{path}' do not match their description ({type(error).__name__}): expected "
            "the files of one run of this version of medmim"
        ) from error
    return TrainedModel(task, network.eval(), plan, names, description)


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with everything needed to use it.

    Attributes:
        encoder: the network with its weights, in evaluation mode.
    """

    encoder: Encoder
    plan: PreprocessingPlan
    description: Mapping[str, Any]


def load_trained_encoder(path: Path) -> TrainedEncoder:
    """Load the encoder of a weights file; other parts of the network are ignored.

    Raises:
        RunError: if the file is missing or damaged, or its description does not name the encoder.
        TransferError: if the weights do not fit the encoder.
    """
    weights, description = load_weights(path)
    try:
        plan = plan_of_model(description)
        encoder = build_encoder(
            description["encoder"],
            spatial_dims=description["spatial_dims"],
            in_channels=description["in_channels"],
            **description["encoder_options"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"weights at '{path}' do not describe their encoder ({type(error).__name__}: {error}): expected "
            "the files of one run of medmim"
        ) from error
    transfer(encoder, weights, least=1.0)
    return TrainedEncoder(encoder.eval(), plan, description)
