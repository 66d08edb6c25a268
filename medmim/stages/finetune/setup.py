"""The components of a fine-tuning run, and the function that builds them from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from medmim.config.runs import FinetuneSettings
from medmim.data.dataset.channels import select_channels, unstacked_channels
from medmim.data.dataset.contamination_certificate import UNKNOWN, Certificate
from medmim.data.dataset.manifest import Dataset, digest_of, read_dataset
from medmim.data.dataset.splits import Partition, limit_patients, partition
from medmim.data.loading.patches import PatchDataset
from medmim.data.loading.preprocessing_plan import plan_for
from medmim.data.loading.recorded_files import refuse_changed_labels
from medmim.encoders import Encoder
from medmim.errors import DataError, counted
from medmim.heads import build_head, transfer_decoder
from medmim.randomness import stream_seed
from medmim.stages.initial_weights import (
    InitialWeights,
    certificate_of,
    initial_weights_of,
    initialised_encoder,
    origin_tags,
)
from medmim.stages.pretrain.setup import DEFAULT_ENCODER
from medmim.stages.run_lifecycle import TrainingRun, volume_loader
from medmim.stages.target_table import with_targets
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import budget_for
from medmim.training.lightning_modules import FinetuningModule
from medmim.training.mask_any_net_regularizer import MaskAnyNetRegularizer
from medmim.training.recipe import fit_size, with_recipe
from medmim.training.tasks.base import EvaluationContext, Task
from medmim.training.tasks.registry import build_task, prepare_task, with_task_of


@dataclass(frozen=True, eq=False, kw_only=True)
class FinetuneRun(TrainingRun[FinetuneSettings, FinetuningModule]):
    """The components of a fine-tuning run, whose partition is limited to the labels asked for.

    Attributes:
        context: class names and volume loader for evaluation.
        head: options of the network in the table of heads.
    """

    stage: ClassVar[str] = "finetune"
    task: Task
    context: EvaluationContext
    head: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Task and initial weights; the arm of the run."""
        return f"{self.settings.task} ← {self.origin.arm}"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run: task, initial weights, optimizer and test split."""
        settings = self.settings
        return {
            **self.shared_tags(),
            "task": settings.task,
            "axis_task": self.task.axis,
            "metric": self.task.metric,
            "arm": self.origin.arm,
            **origin_tags(self.origin, self.transfer_report, settings.encoder_options),
            "batch_size": str(settings.batch_size),
            "lr": f"{settings.lr:g}",
            "labelled": str(len({volume.subject for volume in self.partition.train})),
            "split_hash": self.test_digest,
            "test_patients_seen_in_pretraining": self.seen_test_patients,
        }

    @property
    def seen_test_patients(self) -> str:
        """Number of test patients that pretraining saw, for tags; `unknown` without a record."""
        seen = self.origin.seen(self.partition.test)
        return UNKNOWN if seen is None else str(seen)

    @property
    def test_digest(self) -> str:
        """Hash of the test split, and of its targets if they come from a table."""
        digest = self.partition.digest
        if self.settings.targets is None:
            return digest
        return digest_of([digest, sorted((one.id, one.target) for one in self.partition.test)])

    @property
    def certificate(self) -> Certificate:
        """Patients that pretraining, fine-tuning and normalisation share with the test."""
        return certificate_of(self.dataset, self.partition, self.origin)

    @property
    def selects_weights(self) -> bool:
        """Whether validation selects the weights; with few labels the last weights are kept."""
        limited = self.settings.num_labelled is not None or self.settings.label_fraction is not None
        return bool(self.partition.val) and not limited


def build_finetuning(settings: FinetuneSettings, store: Store, log: Callable[[str], None]) -> FinetuneRun:
    """Build the components of a run; nothing is written."""
    stored = read_dataset(settings.data)
    stored = with_targets(stored, settings.targets, settings.column, home=store.home, log=log)
    dataset = select_channels(stored, settings.channels, log)
    settings = with_task_of(dataset, settings, log)
    task = build_task(settings.task, **settings.options_of_task)
    origin = initial_weights_of(settings, store, dataset)
    divided = _divide(settings, dataset, task, log, stored=stored)
    known_dims = settings.dims or origin.description.get("spatial_dims")
    dims = plan_for(divided.train, dims=known_dims, size=None).dims
    everyone = partition(stored, fold=settings.fold).train
    given, pretrained = settings, bool(origin.description)
    settings = with_recipe(given, everyone, dims=dims, log=log, pretrained=pretrained)
    encoder, report, chosen = initialised_encoder(settings, origin, dims, log, default=DEFAULT_ENCODER[dims])
    settings = fit_size(settings, given, encoder.total_stride)
    task = build_task(settings.task, **settings.options_of_task)
    choices: dict[str, Any] = {"dims": dims, "multiple": encoder.total_stride, "home": store.home, "log": log}
    plan, names = prepare_task(task, settings, dataset, divided.train, **choices)
    volumes = volume_loader(settings, plan, store.home)
    context = EvaluationContext(volumes, names, settings.precision, {})
    head = task.head(encoder, divided.train, context, log)
    network = _network(settings, encoder, origin, log, context, head)
    filled = {"dims": dims, "size": plan.size, "field_of_view": plan.view}
    resolved = settings.model_copy(update=chosen | filled | {"init": origin.run_id or origin.arm})
    regularizer = _regularizer(resolved, encoder, dims)
    module = FinetuningModule(network, task.loss, settings=resolved, regularizer=regularizer)
    return FinetuneRun(
        settings=resolved,
        dataset=dataset,
        partition=divided,
        volumes=volumes,
        task=task,
        context=context,
        origin=origin,
        transfer_report=report,
        head=head,
        patches=_patches(resolved, task, divided, context),
        module=module,
        budget=budget_for(resolved, volumes=len(divided.train)),
    )


def _divide(
    settings: FinetuneSettings, dataset: Dataset, task: Task, log: Callable[[str], None], *, stored: Dataset
) -> Partition:
    """Return the partition; its folds are those of all stored patients, as in pretraining."""
    needed = task.requirement
    unused = [volume for volume in dataset.volumes if not task.usable(volume)]
    texts = sorted(volume.target for volume in unused if volume.target)  # regression needs numbers
    shown = f"; found '{texts[0]}'" if texts else ""
    if len(unused) == len(dataset.volumes):
        raise DataError(f"this dataset has no image with {needed}: {task.remedy}{shown}", reason="no_labels")
    if unused:
        lacking = f"{len(unused)} of {counted(len(dataset.volumes), 'image')}"
        log(f"left out: {lacking} without {needed.removeprefix('a ')}{task.hint}{shown}")
    line, words = unstacked_channels(dataset.volumes)
    if line:
        log(f"channels: {line}; --channels {words} shows them to the network together")
    divided = partition(stored, fold=settings.fold, usable=task.usable, volumes=dataset.volumes)
    for name in ("train", "test"):
        if not getattr(divided, name):
            raise DataError(
                f"the {name} split has no patient with {needed}: label more patients, or use --fold",
                reason="no_labels",
            )
    refuse_changed_labels(stored.root, [*divided.train, *divided.val, *divided.test])
    train, val, test = (task.validate(part, log) for part in (divided.train, divided.val, divided.test))
    limited = limit_patients(
        train, count=settings.num_labelled, share=settings.label_fraction, classes_of=task.classes_of
    )
    divided = replace(divided, train=limited, val=val, test=test)
    for line in _caveats(divided, task):
        log(f"warning: {line}")
    return divided


def _caveats(divided: Partition, task: Task) -> list[str]:
    """Return what limits the scores of this partition."""
    found = []
    if not divided.val:
        found.append(
            f"no validation patient has {task.requirement}: the last weights are kept, none selected"
        )
    unknown = sum(volume.flags.get("spacing") == "unknown" for volume in divided.test)
    if task.measures_mm and unknown:
        found.append(f"unknown pixel size of {counted(unknown, 'test image')}: scores assume 1 mm")
    trained = {name for volume in divided.train for name in task.classes_of(volume)}
    for part, volumes in (("validation", divided.val), ("test", divided.test)):
        untrained = [volume for volume in volumes if task.classes_of(volume) - trained]
        if untrained:
            found.append(
                f"{counted(len(untrained), f'{part} image has', f'{part} images have')} a class that no "
                "training image has: it cannot be predicted"
            )
        found += [f"{part}: {line}" for line in task.unscored(volumes, sorted(trained))] if volumes else []
    return found


def _network(
    settings: FinetuneSettings,
    encoder: Encoder,
    origin: InitialWeights,
    log: Callable[[str], None],
    context: EvaluationContext,
    head: Mapping[str, Any],
) -> nn.Module:
    """Build the head on the encoder, with tensors of a pretrained decoder that fit, unless switched off."""
    torch.manual_seed(stream_seed(settings.seed, "head"))
    sizes = {"spatial_dims": context.plan.dims, "classes": context.plan.channels(context.names)}
    network = build_head(settings.task, encoder=encoder, **sizes, **head)
    copied = transfer_decoder(network, origin.weights) if settings.init_decoder else 0
    if copied:
        log(
            f"loaded {counted(copied, 'tensor')} of the decoder from '{origin.arm}' (off: --set "
            "init_decoder=false)"
        )
    return network


def _regularizer(settings: FinetuneSettings, encoder: Encoder, dims: int) -> MaskAnyNetRegularizer | None:
    """Return the regulariser, if one is set; its branch starts from the transferred weights."""
    if settings.regulariser is None:
        return None
    torch.manual_seed(stream_seed(settings.seed, "reuse"))
    return MaskAnyNetRegularizer(encoder, spatial_dims=dims, seed=settings.seed)


def _patches(
    settings: FinetuneSettings, task: Task, divided: Partition, context: EvaluationContext
) -> PatchDataset:
    samples = task.training_samples(
        divided.train, context, foreground=settings.foreground_fraction, augment=settings.augment
    )
    return PatchDataset(
        divided.train,
        context.volumes,
        samples.transform,
        labelled=samples.labelled,
        seed=settings.seed,
        targets=samples.targets,
        weights=samples.weights,
    )
