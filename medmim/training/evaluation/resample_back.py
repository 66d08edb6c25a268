"""Resampling of probabilities from the preprocessed grid to the grid of the source file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import ResampleToMatch
from torch import Tensor

from medmim.data.formats.geometry import Affine, align_axes, corner_distance
from medmim.data.formats.nifti import Image
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import Regions
from medmim.training.evaluation.regions import THRESHOLD, labels_of

_SAME_VOXELS = 0.01  # tolerance in voxels for the same grid, whose affine went through float32


def restored(
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
    return on_grid(probabilities, prepared.affine, shape, prepared.stored_affine, regions).numpy()


def on_grid(
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
