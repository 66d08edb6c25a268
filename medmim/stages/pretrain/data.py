"""What a method is shown: patches or views of them, with class or label where it learns from these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.loading.contrastive_views import patch_views, resized_views
from medmim.data.loading.patches import PatchDataset, pretraining_patches, resized_parts
from medmim.data.loading.preprocess import PreprocessedVolume, VolumeLoader
from medmim.methods import Method
from medmim.methods.mask_any_net.objectives import Kind, Supervision


def class_numbers(volumes: Sequence[VolumeRecord]) -> dict[str, int]:
    """Return a number for each class of the images, in alphabetical order."""
    names = sorted({volume.target for volume in volumes if volume.target is not None})
    return {name: number for number, name in enumerate(names)}


def supervision_of(dataset: Dataset, train: Sequence[VolumeRecord]) -> Supervision | None:
    """Return what the training images' labels say: classes of images, else labels of voxels, else None."""
    classes = class_numbers(train)
    if len(classes) > 1:
        return Supervision("target", len(classes))
    if dataset.info.label_names and any(volume.label for volume in train):
        return Supervision("label", max(dataset.info.label_names) + 1)
    return None


def volumes_with_labels(volumes: Sequence[VolumeRecord], kind: Kind | None) -> tuple[VolumeRecord, ...]:
    """Return the volumes that hold what a method learns from."""
    if kind == "target":
        return tuple(volume for volume in volumes if volume.target is not None)
    return tuple(volume for volume in volumes if volume.label or kind is None)


def build_pretraining_dataset(
    method: Method,
    volumes: Sequence[VolumeRecord],
    prepared: VolumeLoader,
    *,
    classes: Mapping[str, int],
    seed: int,
    augment: str,
) -> PatchDataset:
    """Return the draws of a method.

    Args:
        method: says how many views it compares, and what it learns from.
        volumes: what is drawn from; see `volumes_with_labels`.
        prepared: prepares volumes, and knows the plan.
        classes: number of each class.
        seed: of the run.
        augment: patch or resized; what learns from label volumes sees patches.
    """
    labelled = method.label_kind == "label"
    if method.views > 1:
        make = resized_views if augment == "resized" else patch_views
        transform = make(prepared.plan, views=method.views)
    elif augment == "resized" and not labelled:
        transform = resized_parts(prepared.plan)
    else:
        transform = pretraining_patches(prepared.plan, labelled=labelled)
    targets = _targets(classes) if method.label_kind == "target" else None
    return PatchDataset(volumes, prepared, transform, labelled=labelled, seed=seed, targets=targets)


def _targets(
    classes: Mapping[str, int],
) -> Callable[[VolumeRecord, PreprocessedVolume], Mapping[str, Tensor]]:
    return lambda volume, prepared: {"target": torch.tensor(classes[str(volume.target)])}
