"""Everything that a fine-tuning run is made of: data, task, encoder with its origin, network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.channels import select_channels
from medmim.data.dataset.contamination import Certificate
from medmim.data.dataset.manifest import Dataset, read_dataset
from medmim.data.dataset.partition import Partition, limit_patients, partition
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, plan_for
from medmim.encoders import Encoder, build_encoder
from medmim.errors import DataError
from medmim.heads import Transfer, build_head, transfer
from medmim.heads.transfer import stem_change
from medmim.randomness import stream_seed
from medmim.stages.finetune.initial_weights import InitialWeights, certificate_of, find_initial_weights
from medmim.stages.pretrain.run import DEFAULT_ENCODER
from medmim.stages.run_lifecycle import prepared_on_disk
from medmim.tracking.mlflow_store import Store
from medmim.training.tasks.base import EvaluationContext, Task
from medmim.training.tasks.registry import build_task


@dataclass(frozen=True)
class FinetuneComponents:
    """Everything that a fine-tuning run is made of.

    Attributes:
        dataset: all of it.
        divided: who trains, validates and tests, limited to the labels asked for.
        task: what is learnt.
        scene: what judging takes.
        origin: where the encoder's weights come from.
        arrived: what became of them; None from scratch.
        encoder: its name and options.
        head: options of the network in the table of heads.
        network: encoder and head.
    """

    dataset: Dataset
    divided: Partition
    task: Task
    scene: EvaluationContext
    origin: InitialWeights
    arrived: Transfer | None
    encoder: tuple[str, Mapping[str, Any]]
    head: Mapping[str, Any]
    network: nn.Module

    @property
    def plan(self) -> PreprocessingPlan:
        """How volumes are prepared."""
        return self.scene.plan

    @property
    def seen_test_patients(self) -> int:
        """Test patients that pretraining saw."""
        return self.origin.seen(self.divided.test)

    @property
    def certificate(self) -> Certificate:
        """What pretraining, fine-tuning and normalisation share with the test."""
        return certificate_of(self.dataset, self.divided, self.origin)


def build_components(
    settings: FinetuneSettings, store: Store, say: Callable[[str], None]
) -> FinetuneComponents:
    """Build all parts; nothing is written.

    Raises:
        MedmimError: for settings, data, sizes or weights that cannot work.
    """
    task = build_task(settings.task, **settings.task_options)
    stored = read_dataset(settings.data)
    dataset = select_channels(stored, settings.channels, say)
    origin = find_initial_weights(settings.init, store, dataset)
    divided = _divide(settings, dataset, task, say, stored=stored)
    known_dims = settings.dims or origin.description.get("spatial_dims")
    dims = plan_for(divided.train, dims=known_dims, size=None).dims
    words = _encoder_words(settings, origin, dims)
    encoder, arrived = _encoder(settings, origin, dims, words, say)
    view = settings.field_of_view or task.view(dims)
    plan = plan_for(divided.train, dims=dims, size=settings.size, multiple=encoder.total_stride, view=view)
    disk = prepared_on_disk(settings, store.home)
    volumes = VolumeLoader(settings.data, plan, cache_gb=settings.cache_gb, disk=disk)
    names = task.names(dataset, divided.train, volumes)
    scene = EvaluationContext(volumes, names, settings.precision, {})
    head = task.head(encoder, divided.train, scene, say)
    torch.manual_seed(stream_seed(settings.seed, "head"))
    network = build_head(settings.task, encoder=encoder, spatial_dims=dims, classes=max(names) + 1, **head)
    return FinetuneComponents(dataset, divided, task, scene, origin, arrived, words, head, network)


def resolved_settings(settings: FinetuneSettings, parts: FinetuneComponents) -> FinetuneSettings:
    """Return the settings with what was left open filled in."""
    chosen = {
        "dims": parts.plan.dims,
        "size": parts.plan.size,
        "view": parts.plan.view,
        "encoder": parts.encoder[0],
        "encoder_options": dict(parts.encoder[1]),
        "init": parts.origin.run_id or parts.origin.arm,
    }
    return settings.model_copy(update=chosen)


def _divide(
    settings: FinetuneSettings, dataset: Dataset, task: Task, say: Callable[[str], None], *, stored: Dataset
) -> Partition:
    """Return who trains, validates and tests; folds are those of all patients stored, as in pretraining."""
    needed = task.requirement
    if not any(map(task.usable, dataset.volumes)):
        raise DataError(
            f"this dataset has no image with {needed}: ingest {needed} with --labels DIR, or as a "
            "layout that has them",
            reason="no_labels",
        )
    unused = sum(not task.usable(volume) for volume in dataset.volumes)
    if unused:
        total = len(dataset.volumes)
        say(f"{unused} of {total} images have no {needed.removeprefix('a ')}: left out{task.hint}")
    divided = partition(stored, fold=settings.fold, usable=task.usable, volumes=dataset.volumes)
    for name in ("train", "test"):
        if not getattr(divided, name):
            raise DataError(
                f"the {name} split has no patient with {needed}: label more patients, or use --fold",
                reason="no_labels",
            )
    train, val, test = (task.validate(part, say) for part in (divided.train, divided.val, divided.test))
    limited = limit_patients(
        train, count=settings.num_labelled, share=settings.label_fraction, classes_of=task.classes_of
    )
    chosen = replace(divided, train=limited, val=val, test=test)
    for line in _doubts(chosen, task):
        say(f"warning: {line}")
    return chosen


def _doubts(divided: Partition, task: Task) -> list[str]:
    """Return what the scores of this division cannot tell."""
    found = []
    if not divided.val:
        found.append(
            f"no validation patient has {task.requirement}: the last weights are the result, nothing is "
            "chosen"
        )
    bare = sum(volume.flags.get("spacing") == "unknown" for volume in divided.test)
    if task.measures_mm and bare:
        found.append(
            f"{bare} test images do not tell the size of their pixels: in their scores a pixel is a mm"
        )
    learnt = {name for volume in divided.train for name in task.classes_of(volume)}
    for part, volumes in (("validation", divided.val), ("test", divided.test)):
        strange = [volume for volume in volumes if task.classes_of(volume) - learnt]
        if strange:
            found.append(
                f"{len(strange)} {part} images show a class that no training image shows: it cannot be found"
            )
    return found


def _encoder_words(
    settings: FinetuneSettings, origin: InitialWeights, dims: int
) -> tuple[str, Mapping[str, Any]]:
    """Return the encoder's name and options: the user's, else those of the weights, else the default."""
    known = str(origin.description.get("encoder", DEFAULT_ENCODER[dims]))
    name = settings.encoder or known
    options = origin.description.get("encoder_options", {}) if name == known else {}
    return name, {**options, **settings.encoder_options}


def _encoder(
    settings: FinetuneSettings,
    origin: InitialWeights,
    dims: int,
    words: tuple[str, Mapping[str, Any]],
    say: Callable[[str], None],
) -> tuple[Encoder, Transfer | None]:
    name, options = words
    torch.manual_seed(stream_seed(settings.seed, "encoder"))
    encoder = build_encoder(name, spatial_dims=dims, in_channels=settings.in_channels, **options)
    if not origin.description:
        return encoder, None
    arrived = transfer(encoder, origin.weights, least=settings.min_loaded_fraction)
    say(f"{arrived.loaded_fraction:.1%} of the encoder's tensors arrived from '{origin.arm}'")
    changed = stem_change(origin.description.get("encoder_options", {}), options)
    for line in [*arrived.lines(), *([f"stem changed: {changed}"] if changed else [])]:
        say(line)
    return encoder, arrived
