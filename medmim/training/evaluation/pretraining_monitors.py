"""Monitors of pretraining: what an encoder's features are worth now, under the same keys for every method.

probe/knn_f1, probe/linear_f1   macro-F1 of the image's class, from training patients to validation patients
probe/segment_dice              Dice of a 1×1 classifier on frozen features, on a coarse grid
probe/effective_rank            directions that the features of the images use
probe/cosine                    mean cosine between the features of two places, of one image or of two
alarm/collapse                  1 where all places have come to look alike to the encoder, or all latents that
                                are learnt from, while it may still tell places apart (val/cosine_targets)
probe/hidden_error              error of hidden cells relative to the variance of what is predicted there;
                                none where nothing is, as by contrast: the run's tag `leak_alarm`
alarm/leak                      1 where hidden cells are rebuilt too well to be true

Nothing is drawn at random and nothing is kept between calls: training goes on as if nobody had looked. While
training, batch norm's statistics are those of visible voxels; what is judged is a copy with those of whole
images, as the kept weights have them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.data.loading.probe_images import ProbeImages
from medmim.encoders import Encoder
from medmim.encoders.recalibrate_batch_norm import batch_norms, settled_copy
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images, grid_of
from medmim.training.evaluation import probes
from medmim.training.evaluation.features import (
    EncoderFeatures,
    SampledVoxels,
    all_voxels,
    extract_features,
    some_voxels,
)
from medmim.training.precision import autocast

COLLAPSED_COSINE = 0.95
_COLLAPSED_RANK = 0.5  # relative to that of the initial weights
_COLLAPSED_SPREAD = 0.1  # what is missing to a cosine of 1, relative to the same
LEAKED_ERROR = 0.02
_VOXEL_STRIDE = 4


class Monitors:
    """Judge an encoder on fixed images.

    Args:
        encoder: that is being trained; its weights of now are the yardstick of collapse later.
        train: images of training patients; None: nothing is known of any image.
        val: images of validation patients, or whatever there is where nothing is known; batch norm is settled
            on these only where there are no others.
        precision: auto, fp32 or bf16.
    """

    def __init__(
        self, encoder: Encoder, train: ProbeImages | None, val: ProbeImages, *, precision: str
    ) -> None:
        self.encoder = encoder
        self.train = train
        self.val = val
        self.precision = precision
        space = tuple(val.images.shape[2:])
        stride = next((one for one in encoder.strides if max(one) >= _VOXEL_STRIDE), encoder.total_stride)
        self.grid = grid_of(space, stride)
        self.taught = some_voxels(train, self.grid) if train else None
        self.tested = all_voxels(val, self.grid)
        shown = self.settled()
        seen = [extract_features(shown, one.images, precision=precision) for one in (train, val) if one]
        self.initial_rank = probes.effective_rank(torch.cat([one.last for one in seen]))
        self.initial_cosine = probes.mean_cosine(torch.cat([one.places for one in seen]))

    def __call__(self) -> dict[str, float]:
        """Return the numbers for the encoder as it is."""
        shown = self.settled()
        val = self._look(shown, self.val, self.tested)
        if self.train is None or self.taught is None:
            return self._spread(val)
        train = self._look(shown, self.train, self.taught)
        found = self._spread(train, val)
        found |= _class_scores(self.train, train.pooled, self.val, val.pooled)
        return found | _label_scores(self.taught, train.columns, self.tested, val.columns)

    def settled(self) -> Encoder:
        """Return what is looked through: the encoder, or a settled copy where it has batch norms."""
        if not batch_norms(self.encoder):
            return self.encoder
        with autocast(self.precision, next(self.encoder.parameters()).device):
            return settled_copy(self.encoder, (self.train or self.val).images)

    def _look(self, shown: Encoder, exhibits: ProbeImages, voxels: SampledVoxels) -> EncoderFeatures:
        return extract_features(
            shown, exhibits.images, precision=self.precision, voxels=voxels, grid=self.grid
        )

    def _spread(self, *seen: EncoderFeatures) -> dict[str, float]:
        """Return how far apart features lie, and whether they have come together.

        Places are compared, since means of whole images are alike in any encoder. Features that have a part
        in common, as after ReLU, are so from the beginning: only a cosine that has also risen, or a rank that
        has fallen, is a collapse.
        """
        rank = probes.effective_rank(torch.cat([one.last for one in seen]))
        cosine = probes.mean_cosine(torch.cat([one.places for one in seen]))
        closer = 1 - cosine < _COLLAPSED_SPREAD * (1 - self.initial_cosine)
        flatter = rank < _COLLAPSED_RANK * self.initial_rank
        collapsed = cosine > COLLAPSED_COSINE and (closer or flatter)
        return {"probe/effective_rank": rank, "probe/cosine": cosine, "alarm/collapse": float(collapsed)}


def alike_targets(found: Mapping[str, float]) -> dict[str, float]:
    """Return the alarm of a collapse behind the encoder, as after a projector; nothing where there is none.

    Args:
        found: numbers of an evaluation; `val/cosine_targets` where the method learns from latents.
    """
    return {"alarm/collapse": 1.0} if found.get("val/cosine_targets", 0.0) > COLLAPSED_COSINE else {}


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


def _class_scores(train: ProbeImages, taught: Tensor, val: ProbeImages, tested: Tensor) -> dict[str, float]:
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


def _label_scores(
    taught: SampledVoxels, rows: Tensor, tested: SampledVoxels, others: Tensor
) -> dict[str, float]:
    """Return the Dice of the probed labels; none without foreground on either side."""
    if len(np.unique(taught.classes)) < 2 or not tested.classes.any():
        return {}
    probe = probes.linear(rows.numpy(), taught.classes, weights=taught.weights)
    return {"probe/segment_dice": probes.mean_dice(tested.classes, probe.predict(others.numpy()))}
