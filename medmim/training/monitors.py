"""Monitors of pretraining: what an encoder's features are worth now, under the same keys for every method.

probe/knn_f1, probe/linear_f1   macro-F1 of the image's class, from training patients to validation patients
probe/segment_dice              Dice of a 1×1 classifier on frozen features, on a coarse grid
probe/effective_rank            directions that the features of the images use
probe/cosine                    mean cosine between the features of two images
alarm/collapse                  1 where all images have come to look alike to the encoder
alarm/leak                      1 where hidden cells are rebuilt too well to be true

Nothing is drawn at random and nothing is kept between calls: training goes on as if nobody had looked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from medmim.data.exhibits import Exhibits
from medmim.encoders import Encoder
from medmim.masks import hidden_voxels
from medmim.randomness import numpy_stream
from medmim.shapes import Features, Hidden, Images, Size, grid_of
from medmim.training import probes
from medmim.training.fit import autocast

COLLAPSED_COSINE = 0.95
LEAKED_ERROR = 0.02
_AT_ONCE = 8
_VOXEL_STRIDE = 4
_TAUGHT_VOXELS = 2048
_TESTED_IMAGES = 32


@dataclass(frozen=True, eq=False)
class _Seen:
    """Features of images.

    Attributes:
        pooled: means of all maps, side by side, (images, widths).
        last: mean of the coarsest map, (images, width).
        columns: features of the chosen voxels of all images, (voxels, widths).
    """

    pooled: Float[Tensor, "images widths"]
    last: Float[Tensor, "images width"]
    columns: Float[Tensor, "voxels widths"]


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Voxels of the coarse grid that the segmentation probe looks at.

    Attributes:
        places: numbers of the chosen voxels of each image.
        classes: of all of them, image after image.
        weights: how many voxels each stands for.
    """

    places: tuple[Int[Tensor, " _"], ...]
    classes: Int[np.ndarray, " voxels"]
    weights: Float[np.ndarray, " voxels"]


class Monitors:
    """Judge an encoder on fixed images.

    Args:
        encoder: that is being trained; its weights of now are the yardstick of collapse later.
        train: images of training patients; None: nothing is known of any image.
        val: images of validation patients, or whatever there is where nothing is known.
        precision: auto, fp32 or bf16.
    """

    def __init__(self, encoder: Encoder, train: Exhibits | None, val: Exhibits, *, precision: str) -> None:
        self.encoder = encoder
        self.train = train
        self.val = val
        self.precision = precision
        space = tuple(val.images.shape[2:])
        stride = next((one for one in encoder.strides if max(one) >= _VOXEL_STRIDE), encoder.total_stride)
        self.grid = grid_of(space, stride)
        self.taught = _some_voxels(train, self.grid) if train else None
        self.tested = _all_voxels(val, self.grid)
        seen = [self._look(one, None).last for one in (train, val) if one]
        self.initial_rank = probes.effective_rank(torch.cat(seen))

    def __call__(self) -> dict[str, float]:
        """Return the numbers for the encoder as it is."""
        val = self._look(self.val, self.tested)
        if self.train is None or self.taught is None:
            return self._spread(val.last)
        train = self._look(self.train, self.taught)
        found = self._spread(torch.cat([train.last, val.last]))
        found |= _class_scores(self.train, train.pooled, self.val, val.pooled)
        return found | _label_scores(self.taught, train.columns, self.tested, val.columns)

    def _spread(self, last: Float[Tensor, "images width"]) -> dict[str, float]:
        """Return how far apart the images lie, and whether they have come together."""
        rank, cosine = probes.effective_rank(last), probes.mean_cosine(last)
        collapsed = cosine > COLLAPSED_COSINE and rank < 0.5 * self.initial_rank
        return {"probe/effective_rank": rank, "probe/cosine": cosine, "alarm/collapse": float(collapsed)}

    @torch.no_grad()
    def _look(self, exhibits: Exhibits, voxels: _Voxels | None) -> _Seen:
        """Return the features of all images, a few at a time; running statistics of norms do not move."""
        training = self.encoder.training
        self.encoder.eval()
        device = next(self.encoder.parameters()).device
        pooled, last, columns = [], [], []
        for start in range(0, len(exhibits.images), _AT_ONCE):
            chosen = slice(start, start + _AT_ONCE)
            with autocast(self.precision, device):
                maps = self.encoder(exhibits.images[chosen].to(device))
            means = [one.float().flatten(2).mean(dim=-1).cpu() for one in maps]
            pooled.append(torch.cat(means, dim=1))
            last.append(means[-1])
            if voxels:
                columns += _columns(maps, voxels.places[chosen], self.grid)
        self.encoder.train(training)
        width = pooled[0].shape[1]
        return _Seen(
            torch.cat(pooled), torch.cat(last), torch.cat(columns) if columns else torch.zeros(0, width)
        )


def hidden_error(images: Images, hidden: Hidden, reconstruction: Images) -> float:
    """Return the squared error of hidden voxels relative to the variance within their cells; 1: only means.

    Args:
        images: (batch, channels, *space).
        hidden: (batch, *grid), True = hidden.
        reconstruction: as images.
    """
    space = tuple(images.shape[2:])
    cell = tuple(n // cells for n, cells in zip(space, hidden.shape[1:], strict=True))
    pool = F.avg_pool2d if len(space) == 2 else F.avg_pool3d
    means = F.interpolate(pool(images.double(), cell), scale_factor=cell, mode="nearest")
    where = hidden_voxels(hidden, space)
    error = ((reconstruction.double() - images) * where).square().sum()
    spread = ((images - means) * where).square().sum()
    return float(error / spread.clamp_min(torch.finfo(torch.float32).tiny))


def _columns(maps: Sequence[Features], places: Sequence[Tensor], grid: Size) -> list[Tensor]:
    """Return, for each image, all maps at the chosen voxels of the coarse grid, (voxels, widths)."""
    if not any(len(place) for place in places):
        return []
    shared = torch.cat([_at(one.float(), grid) for one in maps], dim=1).flatten(2).cpu()
    return [columns[:, place].T for columns, place in zip(shared, places, strict=True)]


def _at(features: Features, grid: Size) -> Features:
    """Bring a map to the coarse grid: the mean of finer voxels, a copy of coarser ones."""
    mode = "area" if features.shape[2] > grid[0] else "nearest"
    return F.interpolate(features, size=grid, mode=mode)


def _on_grid(exhibits: Exhibits, grid: Size) -> Int[Tensor, "images voxels"]:
    coarse = F.interpolate(exhibits.labels.float(), size=grid, mode="nearest-exact")
    return coarse.long().flatten(1)


def _some_voxels(exhibits: Exhibits, grid: Size) -> _Voxels:
    """Choose a few voxels of each labelled image, half of them foreground where there is enough."""
    labels, stream = _on_grid(exhibits, grid), numpy_stream(0, "probed voxels")
    each = max(2, _TAUGHT_VOXELS // max(int(exhibits.labelled.sum()), 1))
    places, weights = [], []
    for label, known in zip(labels, exhibits.labelled, strict=True):
        groups = [np.flatnonzero(label > 0), np.flatnonzero(label == 0)] if known else []
        taken = [stream.permutation(group)[: each // 2] for group in groups]
        places.append(torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *taken])))
        weights += [
            np.full(len(one), len(group) / len(one))
            for one, group in zip(taken, groups, strict=True)
            if len(one)
        ]
    classes = [label[place].numpy() for label, place in zip(labels, places, strict=True)]
    return _Voxels(tuple(places), np.concatenate(classes), np.concatenate([np.zeros(0), *weights]))


def _all_voxels(exhibits: Exhibits, grid: Size) -> _Voxels:
    """Choose every voxel of the first labelled images."""
    labels = _on_grid(exhibits, grid)
    kept = exhibits.labelled & (exhibits.labelled.long().cumsum(dim=0) <= _TESTED_IMAGES)
    places = tuple(torch.arange(labels.shape[1] if keep else 0) for keep in kept.tolist())
    classes = labels[kept].flatten().numpy()
    return _Voxels(places, classes, np.ones(len(classes)))


def _class_scores(train: Exhibits, taught: Tensor, val: Exhibits, tested: Tensor) -> dict[str, float]:
    """Return the scores of the image's class; none where fewer than two are known."""
    known, asked = train.targets >= 0, val.targets >= 0
    classes, truth = train.targets[known].numpy(), val.targets[asked].numpy()
    if len(np.unique(classes)) < 2 or not len(truth):
        return {}
    rows, others = taught[known].numpy(), tested[asked].numpy()
    return {
        "probe/knn_f1": probes.macro_f1(truth, probes.nearest(rows, classes).predict(others)),
        "probe/linear_f1": probes.macro_f1(truth, probes.linear(rows, classes).predict(others)),
    }


def _label_scores(taught: _Voxels, rows: Tensor, tested: _Voxels, others: Tensor) -> dict[str, float]:
    """Return the Dice of the probed labels; none without foreground on either side."""
    if len(np.unique(taught.classes)) < 2 or not tested.classes.any():
        return {}
    probe = probes.linear(rows.numpy(), taught.classes, weights=taught.weights)
    return {"probe/segment_dice": probes.mean_dice(tested.classes, probe.predict(others.numpy()))}
