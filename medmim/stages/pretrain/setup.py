"""The components of a pretraining run, and the function that builds them from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch

from medmim.config.runs import PretrainSettings
from medmim.config.study import arm_of
from medmim.data.dataset.contamination_certificate import SeenPatients
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dataset.union import read_datasets
from medmim.data.loading.choose_plan import choose_plan
from medmim.data.loading.contrastive_views import patch_views, resized_views
from medmim.data.loading.fingerprint import fingerprint_of
from medmim.data.loading.patches import PatchDataset, Targets, pretraining_patches, resized_parts
from medmim.data.loading.preprocess import VolumeLoader
from medmim.data.loading.preprocessing_plan import Dims, PreprocessingPlan, plan_for, voxel_mm
from medmim.encoders import Encoder
from medmim.errors import UsageError
from medmim.masks import build_mask, hidden_count
from medmim.masks.base import cell_in_voxels, cell_words
from medmim.methods import ON_PATCHES, WITHOUT_MASK, Method, build_method
from medmim.methods.mask_any_net import Kind, Supervision
from medmim.randomness import stream_seed
from medmim.shapes import Size, grid_of
from medmim.stages.initial_weights import (
    InitialWeights,
    continue_method,
    initial_weights_of,
    initialised_encoder,
    origin_tags,
)
from medmim.stages.run_lifecycle import TrainingRun, volume_loader
from medmim.tracking.mlflow_store import Store
from medmim.training.budget import budget_for
from medmim.training.lightning_modules import PretrainingModule
from medmim.training.recipe import fit_size, with_recipe

DEFAULT_ENCODER = {2: "resnet18", 3: "dynunet"}
_DEFAULT_ON_PATCHES = "vit"
_LEFT_RIGHT, _ALL_AXES = (0,), (0, 1, 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class PretrainRun(TrainingRun[PretrainSettings, PretrainingModule]):
    """The components of a pretraining run.

    Attributes:
        dataset_hashes: content hash of each dataset that it consists of.
        voxel_mm: edge lengths of a voxel in mm, where known.
    """

    stage: ClassVar[str] = "pretrain"
    dataset_hashes: tuple[str, ...]
    voxel_mm: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """Arm, dimensions and encoder."""
        return f"{arm_of(self.settings)} · {self.plan.dims}D {self.settings.encoder}"

    @property
    def method(self) -> Method:
        """The pretraining method."""
        return self.module.method

    @property
    def encoder(self) -> Encoder:
        """The encoder that is pretrained."""
        return self.module.method.encoder

    @property
    def train(self) -> Sequence[VolumeRecord]:
        """The volumes that patches are drawn from."""
        return self.patches.volumes

    @property
    def classes(self) -> dict[str, int]:
        """Number of each image class."""
        return class_numbers(self.partition.train)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run: arm, mask, method and its axes in the survey's taxonomy."""
        settings, mask, cells = (
            self.settings,
            self.module.mask,
            prod(grid_of(self.plan.size, self.module.cell)),
        )
        initial = origin_tags(self.origin, self.transfer_report, settings.encoder_options)
        return {
            **self.shared_tags(),
            "arm": arm_of(settings),
            "method": settings.method,
            "mask": settings.mask,
            "ratio_requested": "–".join(f"{ratio:g}" for ratio in mask.ratios),
            "ratio_realised": "–".join(f"{count / cells:.4f}" for count in mask.hidden_counts(cells)),
            "cell": cell_words(self.module.cell, self.voxel_mm),
            **(initial if self.origin.description else {}),
            "dataset_hashes": ",".join(self.dataset_hashes),
            "split_hash": self.dataset.split_hash,
            "leak_alarm": _leak_alarm(self.method),
            "axis_masking": settings.mask,
            **{f"axis_{axis}": value for axis, value in self.method.axes.items()},
        }


def _leak_alarm(method: Method) -> str:
    """Return whether a leak of hidden content to the encoder would be detected, and if not, why."""
    if not method.reconstructs:
        return "none: nothing hidden is predicted"
    return "none: hidden content is seen by design" if method.sees_hidden_content else "watched"


def build_pretraining(settings: PretrainSettings, *, home: Path, log: Callable[[str], None]) -> PretrainRun:
    """Build the components of a run; only the fingerprint of the dataset is written, to `home`."""
    mask = build_mask(settings.mask, ratio=settings.ratio, **settings.mask_options)
    folders = (settings.data, *settings.more_data)
    union = read_datasets(folders, fold=settings.fold, channels=settings.channels, log=log)
    dataset, divided = union.dataset, union.partition
    origin = _origin(settings, dataset, home, log)
    train = dataset.volumes if settings.include_held_out else divided.train
    sketch = plan_for(train, dims=settings.dims or origin.description.get("spatial_dims"), size=None)
    learners, pretrained = divided.train or train, bool(origin.description)
    settings = with_recipe(given := settings, learners, dims=sketch.dims, log=log, pretrained=pretrained)
    known_mm = voxel_mm(train, sketch) if settings.augment == "patch" else None
    default = usual_encoder(settings.method, sketch.dims)
    encoder, report, chosen = initialised_encoder(settings, origin, sketch.dims, log, default=default)
    cell = cell_in_voxels(settings.cell, multiple=encoder.total_stride, voxel_mm=known_mm)
    method = _method(settings, encoder, sketch.dims, cell, supervision_of(dataset, divided.train))
    continue_method(method, origin, settings.method, log)
    if method.label_kind:  # images of held-out patients may be used, their labels never
        train = volumes_with_labels(divided.train, method.label_kind)
    settings = fit_size(settings, given, cell)
    plan = _plan(settings, train, dataset, dims=sketch.dims, cell=cell, home=home, log=log)
    init = {"init": Path(settings.init).name} if settings.init else {}  # the store contains no paths
    resolved = chosen | init | {"dims": plan.dims, "size": plan.size, "cell": cell}
    volumes, budget = volume_loader(settings, plan, home), budget_for(settings, volumes=len(train))
    classes, weights = class_numbers(divided.train), union.weights(train, settings.data_weights)
    return PretrainRun(
        settings=settings.model_copy(update=resolved),
        dataset=dataset,
        dataset_hashes=union.hashes,
        partition=divided,
        volumes=volumes,
        patches=pretraining_dataset(
            method, train, volumes, settings.augment, seed=settings.seed, classes=classes, weights=weights
        ),
        module=PretrainingModule(method, mask, cell=cell, settings=settings, budget=budget),
        budget=budget,
        voxel_mm=known_mm,
        origin=origin,
        transfer_report=report,
    )


def _origin(
    settings: PretrainSettings, dataset: Dataset, home: Path, log: Callable[[str], None]
) -> InitialWeights:
    if not settings.init:
        return InitialWeights(saw=SeenPatients())  # opening a store would write to the home folder
    origin = initial_weights_of(settings, Store(home), dataset)
    if origin.saw is None:
        log("warning: it is unknown which patients the initial weights have seen: contamination is unknown")
    return origin


def _plan(
    settings: PretrainSettings,
    train: Sequence[VolumeRecord],
    dataset: Dataset,
    *,
    dims: Dims,
    cell: Size,
    home: Path,
    log: Callable[[str], None],
) -> PreprocessingPlan:
    """Return the plan of preprocessing, chosen without any label volume; logs the choices."""
    plan = plan_for(train, dims=dims, size=settings.size, multiple=cell, spacing_mm=settings.spacing_mm)
    hidden_count(prod(grid_of(plan.size, cell)), settings.ratio)  # raises for too few cells
    found = fingerprint_of(settings.data, train, home=home, labels=False)
    axes = _LEFT_RIGHT if settings.augment == "resized" else _ALL_AXES
    plan, lines = choose_plan(plan, settings, found, names=dataset.info.label_names.values(), axes=axes)
    for line in lines:
        log(line)
    if settings.method in WITHOUT_MASK:
        log(f"note: {settings.method} hides nothing: mask and ratio only seed its random draws")
    return plan


def usual_encoder(method: str, dims: int) -> str:
    """Return the default encoder of a method."""
    return _DEFAULT_ON_PATCHES if method in ON_PATCHES else DEFAULT_ENCODER[dims]


def _method(
    settings: PretrainSettings, encoder: Encoder, dims: int, cell: Size, supervision: Supervision | None
) -> Method:
    torch.manual_seed(stream_seed(settings.seed, "method"))
    computed: dict[str, Any] = {"compute": settings.compute} if settings.compute else {}
    method = build_method(
        settings.method,
        encoder=encoder,
        spatial_dims=dims,
        cell=cell,
        supervision=supervision,
        **computed,
        **settings.method_options,
    )
    if settings.compile and getattr(method, "compute", None) == "packed":
        raise UsageError(
            "compile=true: torch.compile cannot follow packed cells, whose sizes change with every mask; "
            "leave it off, or use --compute masked"
        )
    return method


def class_numbers(volumes: Sequence[VolumeRecord]) -> dict[str, int]:
    """Return a number for each image class, in alphabetical order."""
    names = sorted({volume.target for volume in volumes if volume.target is not None})
    return {name: number for number, name in enumerate(names)}


def supervision_of(dataset: Dataset, train: Sequence[VolumeRecord]) -> Supervision | None:
    """Return the labels that a supervised method can use: image classes, else voxel labels, else None."""
    classes = class_numbers(train)
    if len(classes) > 1:
        return Supervision("target", len(classes))
    if dataset.info.label_names and any(volume.label for volume in train):
        return Supervision("label", max(dataset.info.label_names) + 1)
    return None


def volumes_with_labels(volumes: Sequence[VolumeRecord], kind: Kind | None) -> tuple[VolumeRecord, ...]:
    """Return the volumes that have the labels a method needs; all of them for None."""
    if kind == "target":
        return tuple(volume for volume in volumes if volume.target is not None)
    return tuple(volume for volume in volumes if volume.label or kind is None)


def pretraining_dataset(
    method: Method,
    volumes: Sequence[VolumeRecord],
    loader: VolumeLoader,
    augment: str,
    *,
    classes: Mapping[str, int],
    seed: int,
    weights: Sequence[float] | None = None,
) -> PatchDataset:
    """Return the training patches of a method.

    Args:
        method: determines the number of views and the kind of labels.
        volumes: volumes to draw from; see `volumes_with_labels`.
        augment: patch or resized; methods that learn from voxel labels always use patches.
        weights: relative frequency of each volume; None: each once per epoch.
    """
    labelled = method.label_kind == "label"
    if method.views > 1:
        make = resized_views if augment == "resized" else patch_views
        transform = make(loader.plan, views=method.views)
    elif augment == "resized" and not labelled:
        transform = resized_parts(loader.plan)
    else:
        transform = pretraining_patches(loader.plan, labelled=labelled)
    targets: Targets | None = None
    if method.label_kind == "target":
        targets = lambda volume, prepared: {"target": torch.tensor(classes[str(volume.target)])}  # noqa: E731
    return PatchDataset(
        volumes, loader, transform, labelled=labelled, seed=seed, targets=targets, weights=weights
    )
