"""Features of an encoder on fixed images, and the probes fitted on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
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


Rows = Float[np.ndarray, "rows width"]
Numbers = Int[np.ndarray, " rows"]

_NEIGHBOURS = 10


def nearest(train: Rows, classes: Numbers) -> Any:
    """Return a fitted k-nearest-neighbour classifier with cosine distance and distance weights."""
    count = min(_NEIGHBOURS, len(train))
    return KNeighborsClassifier(count, metric="cosine", weights="distance").fit(train, classes)


def linear(train: Rows, classes: Numbers, *, strength: float = 1e-2, weights: Any = None) -> Any:
    """Return a fitted logistic regression on standardised features; classes are balanced without weights."""
    balance = "balanced" if weights is None else None
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight=balance, max_iter=200, random_state=0)
    )
    with warnings.catch_warnings():  # monitors do not need full convergence
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(train, classes, logisticregression__sample_weight=weights)


def mean_f1_of_present(truth: Numbers, found: Numbers) -> float:
    """Return the mean F1 of the classes present in the truth."""
    return float(f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0))


def mean_dice(truth: Numbers, found: Numbers) -> float:
    """Return the mean Dice of the foreground classes present in the truth, over all voxels pooled."""
    values = [value for value in np.unique(truth) if value > 0]
    return float(f1_score(truth, found, labels=values, average="macro", zero_division=0))


def effective_rank(features: Float[Tensor, "rows width"]) -> float:
    """Return the effective rank of centred features (Roy and Vetterli, EUSIPCO 2007).

    The exponential of the entropy of the normalised singular values; 1 for collinear features.
    """
    centred = features.double() - features.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    if not values.sum() > 0:
        return 1.0
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def mean_cosine(features: Float[Tensor, "rows width"]) -> float:
    """Return the mean cosine similarity between different rows; 1 when all point in the same direction."""
    count = len(features)
    if count < 2:
        return 0.0
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (count * (count - 1)))
