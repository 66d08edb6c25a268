"""Facts of the training images from the manifest, from which the recipe of a run is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.preprocessing_plan import Dims, in_ras, plan_for, slice_axis, without_axis
from medmim.shapes import Size


@dataclass(frozen=True)
class TrainingFacts:
    """What a recipe needs to know of the training images.

    Attributes:
        images: number of images.
        dims: 2 or 3.
        shape, spacing_mm: medians in voxels and mm: along right, anterior, superior, or in 2D in a slice.
        channels: image channels.
    """

    images: int
    dims: Dims
    shape: Size
    spacing_mm: tuple[float, ...]
    channels: int = 1


def facts_of(volumes: Sequence[VolumeRecord], *, dims: Dims | None, channels: int = 1) -> TrainingFacts:
    """Return the facts of training images, from the manifest alone.

    Args:
        volumes: training images, at least one.
        dims: 2, 3, or None: as `plan_for` chooses.

    Raises:
        DataError: if there are no images.
    """
    chosen = plan_for(volumes, dims=dims, size=None).dims
    shapes, spacings = (
        np.array([in_ras(one, values) for one, values in zip(volumes, of_all, strict=True)], dtype=float)
        for of_all in ([one.shape for one in volumes], [one.spacing_mm for one in volumes])
    )
    if chosen == 2:
        across = np.array([slice_axis(spacing) for spacing in spacings])
        shapes, spacings = without_axis(shapes, across), without_axis(spacings, across)
    shape = tuple(int(length) for length in np.median(shapes, axis=0))
    spacing = tuple(float(edge) for edge in np.median(spacings, axis=0))
    return TrainingFacts(len(volumes), chosen, shape, spacing, channels)
