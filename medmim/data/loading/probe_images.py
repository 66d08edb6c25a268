"""Fixed images with their classes and labels for probing features during pretraining.

In 2D, the slice with most of the label (or the middle slice) is resized to fit the patch size; in 3D, a patch
is cropped around the label (or the middle). The choice is deterministic.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from monai.transforms.croppad.array import SpatialPad
from torch import Tensor

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.shapes import Images, Labels


@dataclass(frozen=True, eq=False)
class ProbeImages:
    """Images with their classes and labels.

    Attributes:
        images: (batch, channels, *space).
        targets: class index of each image, -1 if unknown, (batch,).
        labels: labels, 0 for images without a label, (batch, 1, *space).
        labelled: whether each image has a label, (batch,).
    """

    images: Images
    targets: Int[Tensor, " batch"]
    labels: Labels
    labelled: Bool[Tensor, " batch"]


def stratified_subset(volumes: Sequence[VolumeRecord], count: int) -> list[VolumeRecord]:
    """Return up to `count` volumes, balanced over classes and in a fixed order.

    Volumes with neither class nor label come last.
    """
    queues: dict[tuple[bool, str], list[VolumeRecord]] = defaultdict(list)
    for volume in sorted(volumes, key=lambda one: hashlib.sha256(f"exhibit/{one.id}".encode()).digest()):
        queues[volume.target is None and volume.label is None, volume.target or ""].append(volume)
    known = [queue for key, queue in sorted(queues.items()) if not key[0]]
    unknown = [queue for key, queue in sorted(queues.items()) if key[0]]
    rounds = chain(chain.from_iterable(zip_longest(*known)), *unknown)
    return [volume for volume in rounds if volume is not None][:count]


def build_probe_images(
    volumes: Sequence[VolumeRecord],
    prepare: Callable[[VolumeRecord], PreprocessedVolume],
    plan: PreprocessingPlan,
    classes: Mapping[str, int],
) -> ProbeImages:
    """Preprocess volumes and crop them to the patch size.

    Args:
        volumes: at least one volume.
        classes: index of each class.
    """
    pairs = [_fit(prepare(volume), plan) for volume in volumes]
    return ProbeImages(
        images=torch.stack([image for image, _ in pairs]),
        targets=torch.tensor([classes.get(volume.target or "", -1) for volume in volumes]),
        labels=torch.stack([label for _, label in pairs]),
        labelled=torch.tensor([volume.label is not None for volume in volumes]),
    )


def _fit(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> tuple[Tensor, Tensor]:
    """Return image and label of the patch size, (channels, *size) and (1, *size)."""
    image, label = prepared.image, prepared.label
    label = torch.zeros_like(image[:1], dtype=torch.uint8) if label is None else label
    centre = _centre(label[0])
    if plan.dims == 2:
        axis = prepared.slice_axis
        image, label = (one.select(axis + 1, centre[axis]) for one in (image, label))
        image, label = _shrink(image, label, plan)
    else:
        image, label = (_cut(one, centre, plan) for one in (image, label))
    dark = float(image.min())
    return _padded(image, plan, dark), _padded(label, plan, 0.0).long()


def _centre(label: Tensor) -> list[int]:
    """Return the index of the slice with most of the label along each axis, or of the middle slice."""
    if not label.any():
        return [length // 2 for length in label.shape]
    axes = range(label.dim())
    return [int((label > 0).sum(dim=[o for o in axes if o != axis]).argmax()) for axis in axes]


def _shrink(image: Tensor, label: Tensor, plan: PreprocessingPlan) -> tuple[Tensor, Tensor]:
    """Downscale a slice to fit the patch size and keep its aspect ratio."""
    factor = min(1.0, *(size / length for size, length in zip(plan.size, image.shape[1:], strict=True)))
    if factor == 1:
        return image, label
    size = [max(1, round(factor * length)) for length in image.shape[1:]]
    small = F.interpolate(image.unsqueeze(0), size=size, mode="area")[0]
    return small, F.interpolate(label.unsqueeze(0), size=size, mode="nearest-exact")[0]


def _cut(value: Tensor, centre: Sequence[int], plan: PreprocessingPlan) -> Tensor:
    """Crop a patch around a voxel, shifted inwards at borders."""
    for axis, (place, size) in enumerate(zip(centre, plan.size, strict=True), start=1):
        length = value.shape[axis]
        taken = min(size, length)
        value = value.narrow(axis, min(max(place - taken // 2, 0), length - taken), taken)
    return value


def _padded(value: Tensor, plan: PreprocessingPlan, fill: float) -> Tensor:
    padded: Tensor = SpatialPad(plan.size, mode="constant", value=fill)(value)
    return padded.as_tensor() if hasattr(padded, "as_tensor") else padded
