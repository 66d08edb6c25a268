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

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medmim.data.exhibits import Exhibits
from medmim.encoders import Encoder
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images, grid_of
from medmim.training import probes
from medmim.training.features import Seen, Voxels, all_voxels, look, some_voxels

COLLAPSED_COSINE = 0.95
LEAKED_ERROR = 0.02
_VOXEL_STRIDE = 4


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
        self.taught = some_voxels(train, self.grid) if train else None
        self.tested = all_voxels(val, self.grid)
        seen = [look(encoder, one.images, precision=precision).last for one in (train, val) if one]
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

    def _look(self, exhibits: Exhibits, voxels: Voxels) -> Seen:
        return look(self.encoder, exhibits.images, precision=self.precision, voxels=voxels, grid=self.grid)

    def _spread(self, last: Float[Tensor, "images width"]) -> dict[str, float]:
        """Return how far apart the images lie, and whether they have come together."""
        rank, cosine = probes.effective_rank(last), probes.mean_cosine(last)
        collapsed = cosine > COLLAPSED_COSINE and rank < 0.5 * self.initial_rank
        return {"probe/effective_rank": rank, "probe/cosine": cosine, "alarm/collapse": float(collapsed)}


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


def _label_scores(taught: Voxels, rows: Tensor, tested: Voxels, others: Tensor) -> dict[str, float]:
    """Return the Dice of the probed labels; none without foreground on either side."""
    if len(np.unique(taught.classes)) < 2 or not tested.classes.any():
        return {}
    probe = probes.linear(rows.numpy(), taught.classes, weights=taught.weights)
    return {"probe/segment_dice": probes.mean_dice(tested.classes, probe.predict(others.numpy()))}
