"""Resampling of class probabilities from the preprocessed grid to the grid of the source file."""

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

_SAME_VOXELS = 0.01  # tolerance in voxels for the same grid, whose affine went through float32


def restored(
    probabilities: Float[Tensor, "classes x y z"], prepared: PreprocessedVolume, shape: Sequence[int]
) -> UInt8[np.ndarray, "i j k"]:
    """Return the most probable class of every voxel of the source file.

    If preprocessing only reordered or flipped axes, this is undone exactly. Otherwise the probabilities are
    resampled linearly before the argmax, which gives smoother surfaces than resampling labels.

    Args:
        probabilities: on the preprocessed grid.
        prepared: the preprocessed volume.
        shape: shape of the array in the file.
    """
    labels = probabilities.argmax(dim=0).numpy().astype(np.uint8)
    turned = align_axes(Image(labels, prepared.affine), prepared.stored_affine)
    if turned is not None and turned.array.shape == tuple(shape):
        off = corner_distance(shape, turned.affine, prepared.stored_affine)
        if off < _SAME_VOXELS * min(turned.spacing_mm):
            return np.ascontiguousarray(turned.array)
    return on_grid(probabilities, prepared.affine, shape, prepared.stored_affine).numpy()


def on_grid(
    probabilities: Float[Tensor, "classes x y z"], affine: Affine, shape: Sequence[int], target: Affine
) -> UInt8[Tensor, "i j k"]:
    """Return the most probable class of every voxel of another grid; resamples one class at a time.

    Args:
        probabilities: probabilities on the first grid.
        affine: affine of the first grid, voxel → world in mm.
        shape: shape of the other grid.
        target: affine of the other grid.
    """
    grid = MetaTensor(torch.zeros(1, *shape), affine=torch.as_tensor(target))
    resample = ResampleToMatch(mode="bilinear", padding_mode="border")
    best, labels = torch.full(tuple(shape), -1.0), torch.zeros(tuple(shape), dtype=torch.uint8)
    for number, one in enumerate(probabilities):
        share = resample(MetaTensor(one[None], affine=torch.as_tensor(affine)), grid).as_tensor()[0]
        labels[share > best] = number
        best = torch.maximum(best, share)
    return labels
