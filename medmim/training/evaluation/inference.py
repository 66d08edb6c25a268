"""Segmentation of whole volumes: sliding windows, mirroring, regions, and the grid of the source file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer, SliceInferer, SlidingWindowInferer
from monai.transforms.spatial.array import ResampleToMatch
from torch import Tensor, nn

from medmim.data.formats.geometry import Affine, align_axes, corner_distance
from medmim.data.formats.nifti import Image
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, Regions
from medmim.operating_system import available_memory_mb
from medmim.shapes import Features, Images
from medmim.training.evaluation.slabs import peak_bytes, slabs_of, tensor_in_file
from medmim.training.precision import autocast

THRESHOLD = 0.5
_OVERLAP = 0.5  # of neighbouring windows, in each axis


def labels_of(
    probabilities: Float[Tensor, "channels *space"], regions: Regions | None
) -> Int[Tensor, "*space"]:
    """Return class indices: the most probable class, or the class of the last region above 0.5.

    Labels are thus written region by region, over what earlier regions have written, as with nnU-Net's
    `regions_class_order`.
    """
    if regions is None:
        return probabilities.argmax(dim=0)
    numbers = torch.arange(1, len(regions) + 1).reshape(-1, *[1] * (probabilities.dim() - 1))
    return ((probabilities > THRESHOLD) * numbers).amax(dim=0)


def class_groups(names: Mapping[int, str], regions: Regions | None) -> dict[str, tuple[int, ...]]:
    """Return what is scored: the class indices of each region, or of each class alone."""
    return dict(regions) if regions else {name: (number,) for number, name in sorted(names.items())}


def membership(regions: Regions) -> Bool[Tensor, "regions classes"]:
    """Return whether each region contains background and each class."""
    table = torch.zeros(len(regions), len(regions) + 1, dtype=torch.bool)
    for row, (_, classes) in zip(table, regions, strict=True):
        row[list(classes)] = True
    return table


def class_outside(number: int, group: Sequence[int], regions: Regions | None) -> int:
    """Return the class of a voxel that is removed from a region: that of the regions which still contain it.

    `group` are the classes of the region; without regions it is background.
    """
    if regions is None:
        return 0
    holders = {one: {name for name, own in regions if one in own} for one in range(1, len(regions) + 1)}
    left = (one for one, own in holders.items() if one not in group and own < holders[number])
    return max(left, default=0)


class RegionProbabilities(nn.Module):
    """A network whose outputs are the probabilities of regions, so that averages are of probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Features:
        """Return probabilities, (batch, regions, *space)."""
        return torch.sigmoid(self.network(images).float())


_SAME_VOXELS = 0.01  # tolerance in voxels for the same grid, whose affine went through float32


def labels_on_source_grid(
    probabilities: Float[Tensor, "channels x y z"],
    prepared: PreprocessedVolume,
    shape: Sequence[int],
    regions: Regions | None = None,
) -> UInt8[np.ndarray, "i j k"]:
    """Return the class of every voxel of the source file, as `labels_of`.

    If preprocessing only reordered or flipped axes, this is undone exactly. Otherwise the probabilities are
    resampled linearly, which gives smoother surfaces than resampling labels.
    """
    labels = labels_of(probabilities, regions).numpy().astype(np.uint8)
    turned = align_axes(Image(labels, prepared.affine), prepared.stored_affine)
    if turned is not None and turned.array.shape == tuple(shape):
        off = corner_distance(shape, turned.affine, prepared.stored_affine)
        if off < _SAME_VOXELS * min(turned.spacing_mm):
            return np.ascontiguousarray(turned.array)
    return labels_on_grid(probabilities, prepared.affine, shape, prepared.stored_affine, regions).numpy()


def labels_on_grid(
    probabilities: Float[Tensor, "channels x y z"],
    affine: Affine,
    shape: Sequence[int],
    target: Affine,
    regions: Regions | None = None,
) -> UInt8[Tensor, "i j k"]:
    """Return the class, as `labels_of`, of every voxel of a grid of this shape and `target` affine.

    Channels are resampled one at a time.
    """
    grid = MetaTensor(torch.zeros(1, *shape), affine=torch.as_tensor(target))
    resample = ResampleToMatch(mode="bilinear", padding_mode="border")
    labels = torch.zeros(tuple(shape), dtype=torch.uint8)
    best = torch.full(tuple(shape), THRESHOLD if regions else -1.0)
    for number, one in enumerate(probabilities, start=1 if regions else 0):
        share = resample(MetaTensor(one[None], affine=torch.as_tensor(affine)), grid).as_tensor()[0]
        labels[share > best] = number
        best = best if regions else torch.maximum(best, share)
    return labels


def resample_to(
    probabilities: Float[Tensor, "channels x y z"], source: PreprocessedVolume, target: PreprocessedVolume
) -> Float[Tensor, "channels i j k"]:
    """Return probabilities on the preprocessed grid of `source`, resampled linearly to that of `target`."""
    if source.image.shape == target.image.shape and np.allclose(source.affine, target.affine):
        return probabilities
    grid = MetaTensor(target.image[:1], affine=torch.as_tensor(target.affine))
    resample = ResampleToMatch(mode="bilinear", padding_mode="border")
    moving = MetaTensor(probabilities, affine=torch.as_tensor(source.affine))
    found: Tensor = resample(moving, grid).as_tensor()
    return found


def segment(
    network: nn.Module,
    prepared: PreprocessedVolume,
    plan: PreprocessingPlan,
    *,
    precision: str,
    mirror: bool = False,
    progress: Callable[[int, int], None] | None = None,
    classes: int,
    max_memory_gb: float | None = None,
) -> Tensor:
    """Segment one preprocessed volume with Gaussian-weighted sliding windows, slice by slice in 2D.

    If the device runs out of memory, windows are computed one by one and averaged in main memory. A volume
    that would need more main memory than `max_memory_gb` is segmented in slabs, with the same result.

    Args:
        progress: receives the number of finished windows, and of all.
        classes: number of classes with background.
        max_memory_gb: for probabilities; None: half of what is free.

    Returns:
        Probabilities of classes or regions, (channels, x, y, z), on the CPU, on the preprocessed grid.
    """
    channels = len(plan.regions) if plan.regions else classes
    network = RegionProbabilities(network) if plan.regions else network
    averaged = MirrorAveraging(network, mirrored(prepared, plan) if mirror else ())
    if progress:
        averaged.register_forward_hook(_count(progress, window_count(prepared, plan)))
    shape = tuple(prepared.image.shape[1:])
    limit = available_memory_mb() / 2 * 2**20 if max_memory_gb is None else max_memory_gb * 1e9
    fill = prepared.background
    if peak_bytes(channels, shape) <= limit:
        return _probabilities(averaged, prepared, plan, precision, fill)
    axis, window, step = _divided_axis(prepared, plan)
    most = int(limit // peak_bytes(channels, [1, *shape[:axis], *shape[axis + 1 :]]))
    found = tensor_in_file((channels, *shape))
    for slab in slabs_of(shape[axis], window=window, step=step, most=most):
        seen = prepared.image.narrow(axis + 1, slab.first, slab.last - slab.first)
        part = _probabilities(averaged, replace(prepared, image=seen), plan, precision, fill)
        kept = part.narrow(axis + 1, slab.start - slab.first, slab.stop - slab.start)
        found.narrow(axis + 1, slab.start, slab.stop - slab.start).copy_(kept)
    return found


def _divided_axis(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> tuple[int, int, int]:
    """Return the axis that slabs divide, and the length and the step of windows along it."""
    if plan.dims == 2:
        return prepared.slice_axis, 1, 1
    windows = [length / size for length, size in zip(prepared.image.shape[1:], plan.size, strict=True)]
    axis = int(np.argmax(windows))
    return axis, plan.size[axis], max(1, int(plan.size[axis] * (1 - _OVERLAP)))


def _probabilities(
    network: nn.Module, prepared: PreprocessedVolume, plan: PreprocessingPlan, precision: str, fill: float
) -> Tensor:
    """Return probabilities of classes or regions of a volume or a slab, (channels, x, y, z), on the CPU.

    Where it is smaller than a window, it is padded with `fill`.
    """
    options: dict[str, Any] = {"precision": precision, "fill": fill}
    try:
        scores = _window_scores(network, prepared, plan, windows=8 if plan.dims == 2 else 2, **options)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        scores = _window_scores(network, prepared, plan, windows=1, device="cpu", **options)
    found: Tensor = scores[0].float().cpu()
    return found if plan.regions else torch.softmax(found, dim=0)


def window_count(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> int:
    """Return the number of windows of a volume."""
    lengths = list(prepared.image.shape[1:])
    slices = lengths.pop(prepared.slice_axis) if plan.dims == 2 else 1
    steps = [max(1, int(size * (1 - _OVERLAP))) for size in plan.size]
    rows = [
        math.ceil(max(0, length - size) / step) + 1
        for length, size, step in zip(lengths, plan.size, steps, strict=True)
    ]
    return slices * math.prod(rows)


def _count(progress: Callable[[int, int], None], total: int) -> Callable[..., None]:
    """Return a forward hook that adds the windows of each batch."""
    done = 0

    def add(_network: nn.Module, inputs: tuple[Tensor], _outputs: Tensor) -> None:
        nonlocal done
        done = min(done + len(inputs[0]), total)  # a volume may start again after a lack of memory
        progress(done, total)

    return add


def _window_scores(
    network: nn.Module,
    prepared: PreprocessedVolume,
    plan: PreprocessingPlan,
    *,
    precision: str,
    fill: float,
    windows: int,
    device: str | None = None,
) -> Tensor:
    """Return the logits (probabilities of regions) of a volume, (1, channels, x, y, z).

    Image and sums of windows are on `device`; None: that of the network.
    """
    computes = next(network.parameters()).device
    image = prepared.image.unsqueeze(0).to(device or computes)
    options = {"sw_batch_size": windows, "sw_device": computes, "device": device or computes, "cval": fill}
    inferer = _inferer(prepared.slice_axis, plan, options)
    with torch.no_grad(), autocast(precision, computes):
        scores: Tensor = inferer(image, network)
    return scores


class MirrorAveraging(nn.Module):
    """A network whose float32 outputs are averaged over mirrored images, so that window sums are accurate."""

    def __init__(self, network: nn.Module, flips: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.network = network
        self.flips = flips

    def forward(self, images: Tensor) -> Tensor:
        """Return averaged outputs, (batch, channels, *space)."""
        scores: Tensor = self.network(images).float()
        for axes in self.flips:
            scores = scores + self.network(images.flip(axes)).float().flip(axes)
        return scores / (1 + len(self.flips))


def mirrored(prepared: PreprocessedVolume, plan: PreprocessingPlan) -> list[tuple[int, ...]]:
    """Return all combinations of tensor axes of a batch that inference may flip."""
    shown = [axis for axis in range(3) if plan.dims == 3 or axis != prepared.slice_axis]
    return all_flips([number + 2 for number, axis in enumerate(shown) if axis in plan.mirror_axes])


def all_flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all combinations of one or more axes."""
    return [chosen for count in range(1, len(axes) + 1) for chosen in combinations(axes, count)]


def _inferer(slice_axis: int, plan: PreprocessingPlan, options: Mapping[str, Any]) -> Inferer:
    shared = {"roi_size": plan.size, "overlap": _OVERLAP, "mode": "gaussian", **options}
    if plan.dims == 2:
        return SliceInferer(spatial_dim=slice_axis, **shared)
    return SlidingWindowInferer(**shared)
