"""The recipe of a run: encoder, patch, spacing, batch, length and schedule, chosen from data and machine.

Patch, pooling and target spacing follow nnU-Net's rules (Isensee et al., Nature Methods 2021, arXiv
1904.08128). Choices for a CPU were measured: see docs/results/recipe.md.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from medmim.config.runs import FinetuneSettings, PretrainSettings, RunSettings
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.preprocessing_plan import Dims, TrainingFacts, facts_of
from medmim.encoders import build_encoder
from medmim.encoders.dynunet import FILTERS
from medmim.encoders.resenc import SIZES
from medmim.heads import build_head
from medmim.methods import ON_PATCHES
from medmim.shapes import Size, round_up
from medmim.training.cost import Machine, PredictedMemory, machine_for, predict_memory

_SMALLEST_MAP = 4  # voxels of the coarsest feature map along an axis
_ANISOTROPIC = 2.0  # ratio of spacings above which only the finer axes are pooled
_COARSER = 1.03  # factor by which the spacing grows until a patch covers enough of the volume
_DIFFERS = 1.05  # ratio of spacings from which images are resampled
_STEPS_GPU = 62_500  # a quarter of nnU-Net's 1,000 epochs of 250 steps
_LAPTOP_S = 3600.0
_STEPS_LAPTOP = (1000, 10_000)
_SECONDS_PER_VOXEL = {2: 4.7e-6, 3: 2.8e-6}  # of a training step on one core with bf16
_BATCH_LAPTOP = {2: 8, 3: 4}
_SEGMENT_BATCH_3D = 2  # nnU-Net's smallest
_SMALLEST_PATCH = 32**3  # voxels of a 3D patch on a CPU
_LARGEST_BATCH = {2: 32, 3: 8}
_TOGETHER = (
    frozenset({"encoder", "encoder_options"}),
    frozenset({"size", "spacing_mm", "field_of_view"}),
    frozenset({"steps", "epochs", "minutes"}),
)
_SMALLER = 0.95  # factor by which a 3D patch shrinks at least, until two fit in memory
_FILLED = 0.8  # share of the machine's memory that a training may take


@dataclass(frozen=True)
class Choice:
    """A setting with the chosen value and the reason."""

    setting: str
    value: Any
    reason: str

    def line(self) -> str:
        """Return a line for the user."""
        value = ",".join(map(str, self.value)) if isinstance(self.value, tuple) else self.value
        return f"{self.setting}={value} ({self.reason})"


def recipe(
    facts: TrainingFacts, machine: Machine, *, task: str | None = None, rounded: bool = True
) -> tuple[Choice, ...]:
    """Return every choice with its reason.

    The encoder depends on data and machine only, so that pretraining and all arms of a study agree.

    Args:
        task: name of the fine-tuning task; None for pretraining.
        rounded: round the patch up to the stride of the chosen encoder; a run rounds to its own.
    """
    spacing = _spacing(facts, machine)
    name, options, why, stride = _network(facts, machine, spacing)
    patch = _patch(facts, machine, spacing, task)
    memory = memory_of(facts, round_up(patch, stride), name, options)
    room = 1024 * _FILLED * machine.memory_gb - memory.fixed_mb
    while machine.gpu and facts.dims == 3 and 2 * memory.patch_mb > room:  # nnU-Net's smallest batch is 2
        share = min(room / (2 * memory.patch_mb), _SMALLER)
        machine = replace(machine, patch_voxels=int(machine.patch_voxels * share))
        name, options, why, stride = _network(facts, machine, spacing)
        patch = _patch(facts, machine, spacing, task)
        memory = memory_of(facts, round_up(patch, stride), name, options)
    stages = len(options.get("features", ()))
    size = round_up(patch, stride)
    batch, fitting = _batch(facts.dims, machine, memory, task)
    return (
        Choice("encoder", name, f"{machine.title}, {facts.dims}D"),
        Choice("encoder_options", options, why),
        *_view_choices(facts, machine, task, size if rounded else patch, spacing),
        Choice("batch_size", batch, fitting),
        *_length(facts, machine, batch, size),
        Choice("channels_last", facts.dims == 2, "faster for 2D convolutions, slower for small 3D patches"),
        *(_task_choices(facts, machine, task, stages) if task else ()),
    )


Settings = TypeVar("Settings", bound=RunSettings)


def with_recipe(
    settings: Settings,
    volumes: Sequence[VolumeRecord],
    *,
    dims: Dims | None,
    log: Callable[[str], None] = lambda _: None,
    pretrained: bool = False,
) -> Settings:
    """Return settings in which open ones are filled in by the recipe; logs each choice with its reason.

    Size and spacing belong together, as do the encoder and its options: where one is set, the other stays.

    Args:
        volumes: all training patients of the dataset, also those without labels, so that all arms agree.
        dims: 2, 3, or None: as `plan_for` chooses.
        pretrained: the encoder is that of the initial weights.
    """
    given, task, channels = set(settings.model_fields_set), None, 1
    if isinstance(settings, FinetuneSettings):
        task, channels = settings.task, settings.in_channels
    if pretrained or (isinstance(settings, PretrainSettings) and settings.method in ON_PATCHES):
        given.add("encoder")
    for group in _TOGETHER:
        given |= group if given & group else set()
    facts = facts_of(volumes, dims=dims, channels=channels)
    choices = recipe(facts, machine_for(settings.machine), task=task, rounded=False)
    used = [one for one in choices if one.setting not in given]
    for choice in used:
        log(f"recipe: {choice.line()}")
    return settings.model_copy(update={one.setting: one.value for one in used})


def fit_size(filled: Settings, before: Settings, multiple: Size) -> Settings:
    """Return settings whose size, if the recipe filled it in, is rounded up to what the network needs.

    Args:
        filled: settings after `with_recipe`.
        multiple: total stride of the encoder, or the mask cell.
    """
    if before.size is not None or filled.size is None:
        return filled
    return filled.model_copy(update={"size": round_up(filled.size, multiple)})


def _spacing(facts: TrainingFacts, machine: Machine) -> tuple[float, ...]:
    """Return the target spacing in mm along the axes of a patch."""
    spacing, shape = np.array(facts.spacing_mm), np.array(facts.shape, dtype=float)
    if facts.dims == 2:
        return tuple(spacing * max(1.0, shape.max() / machine.longest_side))
    extent = shape * spacing
    while machine.seen_share and machine.patch_voxels < machine.seen_share * prod(extent / spacing):
        finest = spacing <= spacing.min() * _COARSER
        spacing = np.where(finest, spacing * _COARSER, spacing)
    return tuple(float(edge) for edge in spacing)


def _patch(facts: TrainingFacts, machine: Machine, spacing: Sequence[float], task: str | None) -> Size:
    """Return the patch before rounding: the median image, or the largest part of it that is allowed.

    A segmenter in 3D on a CPU takes at most half of it: twice the steps in the same minutes, which pay more.
    """
    extent = np.array(facts.shape) * np.array(facts.spacing_mm)
    image = np.maximum(np.round(extent / spacing), 1)
    patch = image.copy()
    if task == "segment" and facts.dims == 3 and not machine.gpu and prod(image) > _SMALLEST_PATCH:
        share = max(0.5, _SMALLEST_PATCH / prod(image))
        patch = np.maximum(np.floor(image * share ** (1 / 3)), 1)
    allowed = machine.patch_voxels if facts.dims == 3 else machine.longest_side**2
    while prod(patch) > allowed:
        longest = int(np.argmax(patch / image)) if len(set(patch / image)) > 1 else int(np.argmax(patch))
        patch[longest] -= 1
    return tuple(int(length) for length in patch)


def _strides(patch: Size, spacing: Sequence[float], *, most: int) -> list[list[int]]:
    """Return the stride of each stage: an axis is halved while its map is long enough and its voxels fine."""
    maps, edges = np.array(patch), np.array(spacing, dtype=float)
    stages = [[1] * len(patch)]
    while len(stages) < most:
        halved = (maps >= 2 * _SMALLEST_MAP) & (edges < _ANISOTROPIC * edges.min())
        if not halved.any():
            halved = maps >= 2 * _SMALLEST_MAP
        if not halved.any():
            break
        step = np.where(halved, 2, 1)
        maps, edges = -(-maps // step), edges * step
        stages.append(step.tolist())
    return stages


def _network(
    facts: TrainingFacts, machine: Machine, spacing: Sequence[float]
) -> tuple[str, dict[str, Any], str, Size]:
    """Return name and options of the encoder, the reason, and its total stride."""
    name, options, why = _encoder(facts, machine, _patch(facts, machine, spacing, None), spacing)
    return name, options, why, _stride(name, facts.dims, facts.channels, json.dumps(options))


@functools.lru_cache(maxsize=64)
def _stride(name: str, dims: Dims, channels: int, given: str) -> Size:
    """Return the total stride of an encoder; kept, like the memory, for the other runs of this process."""
    with torch.device("meta"):
        return build_encoder(name, spatial_dims=dims, in_channels=channels, **json.loads(given)).total_stride


def _encoder(
    facts: TrainingFacts, machine: Machine, patch: Size, spacing: Sequence[float]
) -> tuple[str, dict[str, Any], str]:
    """Return name and options of the encoder, and the reason."""
    anisotropic = max(spacing) / min(spacing) >= _ANISOTROPIC
    if not machine.gpu and facts.dims == 2:
        return "resnet18", {"widths": [32, 64, 128, 256]}, "half as wide: about three times cheaper on a CPU"
    if not machine.gpu and not anisotropic:
        return "dynunet", {}, "1.4 million weights with its decoder, stride 8"
    if not machine.gpu:
        strides = _strides(patch, spacing, most=len(FILTERS))
        fewer = {"filters": list(FILTERS[: len(strides)])} if len(strides) < len(FILTERS) else {}
        return "dynunet", {"strides": strides, **fewer}, "thick slices are pooled later than the finer axes"
    widths, blocks = SIZES[machine.resenc]
    strides = _strides(patch, spacing, most=len(widths))
    count = len(strides)
    options: dict[str, Any] = {"features": list(widths[:count]), "blocks": list(blocks[:count])}
    if strides != [[1] * facts.dims] + [[2] * facts.dims] * (count - 1):
        options["strides"] = strides
    return "resenc", options, f"nnU-Net's ResEnc-{machine.resenc}, {count} stages for this patch"


def _batch(dims: Dims, machine: Machine, memory: PredictedMemory, task: str | None) -> tuple[int, str]:
    """Return the batch size and the reason."""
    if not machine.gpu:
        batch = _SEGMENT_BATCH_3D if task == "segment" and dims == 3 else _BATCH_LAPTOP[dims]
        return batch, f"small, for many steps; predicted memory {memory.of_batch(batch) / 1024:.1f} GiB"
    fitting = (1024 * _FILLED * machine.memory_gb - memory.fixed_mb) / memory.patch_mb
    batch = int(min(max(fitting, 2), _LARGEST_BATCH[dims]))
    return batch, f"predicted memory {memory.of_batch(batch) / 1024:.1f} GiB, not measured"


def memory_of(facts: TrainingFacts, size: Size, encoder: str, options: dict[str, Any]) -> PredictedMemory:
    """Return the predicted memory of training a segmenter in bf16."""
    return _memory(encoder, facts.dims, facts.channels, size, json.dumps(options))


@functools.lru_cache(maxsize=64)
def _memory(encoder: str, dims: Dims, channels: int, size: Size, options: str) -> PredictedMemory:
    def build() -> nn.Module:
        body = build_encoder(encoder, spatial_dims=dims, in_channels=channels, **json.loads(options))
        return build_head("segment", encoder=body, spatial_dims=dims, classes=3)

    return predict_memory(build, channels=channels, size=size)


def _view_choices(
    facts: TrainingFacts, machine: Machine, task: str | None, size: Size, spacing: Sequence[float]
) -> Iterator[Choice]:
    coarser = max(new / old for new, old in zip(spacing, facts.spacing_mm, strict=True)) > _DIFFERS
    reason = f"largest patch of a {machine.title}"
    if prod(size) >= prod(facts.shape):
        reason = "the median image"
    elif not machine.gpu and facts.dims == 3 and prod(size) < machine.patch_voxels:
        reason = "a part of the median image, for many steps"
    yield Choice("size", size, reason)
    if coarser and (facts.dims == 3 or task == "segment" or task is None):
        # in 2D, the slice axis is not resampled
        edges = spacing if facts.dims == 3 else [max(spacing)] * 3
        share = "the whole image" if facts.dims == 2 else f"{machine.seen_share:.0%} of a volume"
        reason = f"coarser than the data, so that a patch sees {share}"
        yield Choice("spacing_mm", tuple(round(edge, 3) for edge in edges), reason)


def _length(facts: TrainingFacts, machine: Machine, batch: int, size: Size) -> Iterator[Choice]:
    if machine.gpu:
        yield Choice("steps", _STEPS_GPU, "a quarter of nnU-Net's length, not measured")
        return
    step_s = batch * prod(size) * _SECONDS_PER_VOXEL[facts.dims]
    steps = round(_LAPTOP_S / step_s, -2)
    steps = int(min(max(steps, _STEPS_LAPTOP[0]), _STEPS_LAPTOP[1]))
    yield Choice("steps", steps, f"about {steps * step_s / 60:.0f} minutes of one CPU core with bf16")


def _task_choices(facts: TrainingFacts, machine: Machine, task: str, stages: int) -> Iterator[Choice]:
    yield Choice(
        "ema", 0.99, "the average of the weights is evaluated; not measured against the last weights"
    )
    if task == "segment" and not machine.gpu:
        yield Choice(
            "augment",
            "light",
            "cheaper; in one short run (one seed, docs/results/recipe.md) not worse than nnunet",
        )
    if task == "segment" and not machine.gpu and facts.dims == 2:
        reason = "half the channels at full resolution: about a quarter less time for a step on a CPU"
        yield Choice("task_options", {"halved": True}, reason)
    if task == "segment" and machine.gpu:
        options = {"deep_supervision": max(stages - 2, 0)}
        yield Choice("task_options", options, "a loss at every decoder map but the two coarsest")
