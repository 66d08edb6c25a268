"""Monitors of pretraining: quality of the encoder's features, with the same metric keys for every method.

probe/knn_f1, probe/linear_f1   macro-F1 of image classes, fitted on training, tested on validation patients
probe/segment_dice              Dice of a linear voxel classifier on frozen features, on a coarse grid
probe/effective_rank            effective rank of the features of the images
probe/cosine                    mean cosine similarity between features at different positions
alarm/collapse                  1 when features at all positions become alike, or when the latent targets do
                                (val/cosine_targets)
probe/hidden_error              error of hidden cells relative to the variance of the targets; absent for
                                methods that predict nothing there (tag `leak_alarm`)
alarm/leak                      1 when hidden cells are reconstructed implausibly well

The monitors use no randomness and do not change the state of training. In training, batch norm statistics are
those of visible voxels; the monitors evaluate a copy recalibrated on whole images, like the saved weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medmim.data.loading.probe_images import ProbeImages
from medmim.encoders import Encoder
from medmim.encoders.batch_norm import batch_norms, recalibrated_copy
from medmim.masks import hidden_voxels
from medmim.shapes import Hidden, Images, grid_of
from medmim.training.evaluation import probes
from medmim.training.evaluation.probes import (
    EncoderFeatures,
    SampledVoxels,
    all_voxels,
    extract_features,
    some_voxels,
)
from medmim.training.precision import autocast

COLLAPSED_COSINE = 0.95
_COLLAPSED_RANK = 0.5  # relative to that of the initial weights
_COLLAPSED_SPREAD = 0.1  # 1 − cosine, relative to its initial value
LEAKED_ERROR = 0.02
_VOXEL_STRIDE = 4


class Monitors:
    """Evaluate an encoder on fixed images.

    Args:
        encoder: the encoder in training; its current weights are the reference for collapse.
        train: images of training patients; None if no image has a class or label.
        val: images of validation patients; batch norm is recalibrated on them only without `train`.
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
        self.train_voxels = some_voxels(train, self.grid) if train else None
        self.val_voxels = all_voxels(val, self.grid)
        shown = self.recalibrated()
        seen = [extract_features(shown, one.images, precision=precision) for one in (train, val) if one]
        self.initial_rank = probes.effective_rank(torch.cat([one.last for one in seen]))
        self.initial_cosine = probes.mean_cosine(torch.cat([one.places for one in seen]))

    def __call__(self) -> dict[str, float]:
        """Return the metrics of the current encoder."""
        shown = self.recalibrated()
        val = self._look(shown, self.val, self.val_voxels)
        if self.train is None or self.train_voxels is None:
            return self._spread(val)
        train = self._look(shown, self.train, self.train_voxels)
        found = self._spread(train, val)
        found |= _class_scores(self.train, train.pooled, self.val, val.pooled)
        return found | _label_scores(self.train_voxels, train.columns, self.val_voxels, val.columns)

    def recalibrated(self) -> Encoder:
        """Return the encoder, or a copy with recalibrated statistics if it has batch norms."""
        if not batch_norms(self.encoder):
            return self.encoder
        with autocast(self.precision, next(self.encoder.parameters()).device):
            return recalibrated_copy(self.encoder, (self.train or self.val).images)

    def _look(self, shown: Encoder, probe_images: ProbeImages, voxels: SampledVoxels) -> EncoderFeatures:
        return extract_features(
            shown, probe_images.images, precision=self.precision, voxels=voxels, grid=self.grid
        )

    def _spread(self, *seen: EncoderFeatures) -> dict[str, float]:
        """Return effective rank, mean cosine and the alarm of collapse.

        Positions are compared because means of whole images are alike in any encoder. Features with a common
        component, as after ReLU, have a high cosine from the start: only a cosine that has risen, or a rank
        that has fallen, since the start is a collapse.
        """
        rank = probes.effective_rank(torch.cat([one.last for one in seen]))
        cosine = probes.mean_cosine(torch.cat([one.places for one in seen]))
        closer = 1 - cosine < _COLLAPSED_SPREAD * (1 - self.initial_cosine)
        flatter = rank < _COLLAPSED_RANK * self.initial_rank
        collapsed = cosine > COLLAPSED_COSINE and (closer or flatter)
        return {"probe/effective_rank": rank, "probe/cosine": cosine, "alarm/collapse": float(collapsed)}


def target_collapse(found: Mapping[str, float]) -> dict[str, float]:
    """Return the alarm for collapsed latent targets (`val/cosine_targets`); empty without a collapse."""
    return {"alarm/collapse": 1.0} if found.get("val/cosine_targets", 0.0) > COLLAPSED_COSINE else {}


def hidden_error(images: Images, hidden: Hidden, reconstruction: Images) -> float:
    """Return the squared error of hidden voxels relative to the variance within their cells.

    A reconstruction by the mean of each cell has an error of 1.
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
    """Return the probes of image classes; empty with fewer than two known classes."""
    known, asked = train.targets >= 0, val.targets >= 0
    classes, truth = train.targets[known].numpy(), val.targets[asked].numpy()
    if len(np.unique(classes)) < 2 or not len(truth):
        return {}
    rows, others = taught[known].numpy(), tested[asked].numpy()
    return {
        "probe/knn_f1": probes.mean_f1_of_present(truth, probes.nearest(rows, classes).predict(others)),
        "probe/linear_f1": probes.mean_f1_of_present(truth, probes.linear(rows, classes).predict(others)),
    }


def _label_scores(
    taught: SampledVoxels, rows: Tensor, tested: SampledVoxels, others: Tensor
) -> dict[str, float]:
    """Return the Dice of the voxel probe; empty without foreground in training or validation."""
    if len(np.unique(taught.classes)) < 2 or not tested.classes.any():
        return {}
    probe = probes.linear(rows.numpy(), taught.classes, weights=taught.weights)
    return {"probe/segment_dice": probes.mean_dice(tested.classes, probe.predict(others.numpy()))}
