"""Encoder features of fixed images: pooled for classes, and of single voxels on a coarse grid for labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from medmim.data.loading.probe_images import ProbeImages
from medmim.encoders import Encoder
from medmim.randomness import numpy_stream
from medmim.shapes import Features, Images, Size
from medmim.training.precision import autocast

_AT_ONCE = 8
_TRAIN_VOXELS = 2048
_TEST_IMAGES = 32
_PLACES = 16


@dataclass(frozen=True, eq=False)
class EncoderFeatures:
    """Features of images.

    Attributes:
        pooled: concatenated means of all maps, (images, widths).
        last: mean of the coarsest map, (images, width).
        places: features at fixed voxels of the coarsest map, (images × voxels, width).
        columns: features of the sampled voxels of all images, (voxels, widths).
    """

    pooled: Float[Tensor, "images widths"]
    last: Float[Tensor, "images width"]
    places: Float[Tensor, "places width"]
    columns: Float[Tensor, "voxels widths"]


@dataclass(frozen=True, eq=False)
class SampledVoxels:
    """Voxels of the coarse grid sampled for the segmentation probe.

    Attributes:
        places: flat indices of the sampled voxels of each image.
        classes: classes of all sampled voxels, image after image.
        weights: number of voxels that each sampled voxel represents.
    """

    places: tuple[Int[Tensor, " _"], ...]
    classes: Int[np.ndarray, " voxels"]
    weights: Float[np.ndarray, " voxels"]


@torch.no_grad()
def extract_features(
    encoder: Encoder,
    images: Images,
    *,
    precision: str,
    voxels: SampledVoxels | None = None,
    grid: Size = (),
) -> EncoderFeatures:
    """Return the features of images in evaluation mode; `columns` at `voxels` of the coarse `grid`."""
    training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    pooled, last, places, columns = [], [], [], []
    for start in range(0, len(images), _AT_ONCE):
        chosen = slice(start, start + _AT_ONCE)
        with autocast(precision, device):
            maps = encoder(images[chosen].to(device))
        means = [one.float().flatten(2).mean(dim=-1).cpu() for one in maps]
        pooled.append(torch.cat(means, dim=1))
        last.append(means[-1])
        places.append(_places(maps[-1]))
        if voxels:
            columns += _columns(maps, voxels.places[chosen], grid)
    encoder.train(training)
    sampled = torch.cat(columns) if columns else torch.zeros(0, pooled[0].shape[1])
    return EncoderFeatures(torch.cat(pooled), torch.cat(last), torch.cat(places), sampled)


def _places(features: Features) -> Float[Tensor, "places width"]:
    """Return the features of a few evenly spaced voxels of each image."""
    flat = features.float().flatten(2).transpose(1, 2)
    chosen = torch.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _PLACES)).long()
    return flat[:, chosen].flatten(0, 1).cpu()


def _on_grid(probe_images: ProbeImages, grid: Size) -> Int[Tensor, "images voxels"]:
    coarse = F.interpolate(probe_images.labels.float(), size=grid, mode="nearest-exact")
    return coarse.long().flatten(1)


def some_voxels(probe_images: ProbeImages, grid: Size) -> SampledVoxels:
    """Sample a few voxels of each labelled image, up to half of them foreground."""
    labels, stream = _on_grid(probe_images, grid), numpy_stream(0, "probed voxels")
    each = max(2, _TRAIN_VOXELS // max(int(probe_images.labelled.sum()), 1))
    places, weights = [], []
    for label, known in zip(labels, probe_images.labelled, strict=True):
        groups = [np.flatnonzero(label > 0), np.flatnonzero(label == 0)] if known else []
        taken = [stream.permutation(group)[: each // 2] for group in groups]
        places.append(torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *taken])))
        weights += [
            np.full(len(one), len(group) / len(one))
            for one, group in zip(taken, groups, strict=True)
            if len(one)
        ]
    classes = [label[place].numpy() for label, place in zip(labels, places, strict=True)]
    return SampledVoxels(tuple(places), np.concatenate(classes), np.concatenate([np.zeros(0), *weights]))


def all_voxels(probe_images: ProbeImages, grid: Size) -> SampledVoxels:
    """Return all voxels of the first labelled images."""
    labels = _on_grid(probe_images, grid)
    kept = probe_images.labelled & (probe_images.labelled.long().cumsum(dim=0) <= _TEST_IMAGES)
    places = tuple(torch.arange(labels.shape[1] if keep else 0) for keep in kept.tolist())
    classes = labels[kept].flatten().numpy()
    return SampledVoxels(places, classes, np.ones(len(classes)))


def _columns(maps: Sequence[Features], places: Sequence[Tensor], grid: Size) -> list[Tensor]:
    """Return the features of all maps at the sampled voxels of each image, (voxels, widths)."""
    if not any(len(place) for place in places):
        return []
    shared = torch.cat([_at(one.float(), grid) for one in maps], dim=1).flatten(2).cpu()
    return [columns[:, place].T for columns, place in zip(shared, places, strict=True)]


def _at(features: Features, grid: Size) -> Features:
    """Resample a map to the coarse grid: average finer voxels, repeat coarser ones."""
    mode = "area" if features.shape[2] > grid[0] else "nearest"
    return F.interpolate(features, size=grid, mode=mode)
