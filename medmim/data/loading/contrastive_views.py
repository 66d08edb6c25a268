"""Several views of one patch for contrastive methods, with independent crops and augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandScaleCropd, RandSpatialCropd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import Resized
from monai.transforms.transform import Randomizable

from medmim.data.loading.mirroring import RandMirror
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.transforms import PadTo, PickSlice, RandomResizedCrop, Sample

_KEYS = ["image"]
_MIN_SHARE = 0.4  # smallest share of an image in a view, so that most pairs of views overlap
_REGION = 1.5  # size of the region that contains all views, relative to the patch


def patch_views(plan: PreprocessingPlan, *, views: int) -> Compose:
    """Return a transform whose `image` is (views, channels, *size).

    All views are taken from one region of 1.5 times the patch size. Each view is a crop of at least the patch
    size, resized to the patch size.
    """
    region = [round(_REGION * length) for length in plan.size]
    mode = "bilinear" if plan.dims == 2 else "trilinear"
    view = [
        RandScaleCropd(_KEYS, roi_scale=1 / _REGION, max_roi_scale=1.0, random_size=True),
        Resized(_KEYS, spatial_size=plan.size, mode=mode, align_corners=False),
    ]
    shared = [PadTo(_KEYS, plan.size), RandSpatialCropd(_KEYS, region, random_size=False)]
    return _compose(plan, shared, view, views)


def resized_views(plan: PreprocessingPlan, *, views: int) -> Compose:
    """Return a transform whose `image` is (views, channels, *size): resized crops of 0.4 to 1 of an image."""
    return _compose(plan, [], [RandomResizedCrop(plan.size, scale=(_MIN_SHARE, 1.0))], views)


def _compose(plan: PreprocessingPlan, shared: list[Any], view: list[Any], views: int) -> Compose:
    changes = [
        RandMirror(_KEYS, plan.mirror_axes),
        RandAdjustContrastd(_KEYS, prob=0.5, gamma=(0.7, 1.5)),
        RandScaleIntensityd(_KEYS, factors=0.2, prob=0.5),
        RandShiftIntensityd(_KEYS, offsets=0.2, prob=0.5),
        RandGaussianSmoothd(_KEYS, prob=0.2, sigma_x=(0.4, 1.0), sigma_y=(0.4, 1.0), sigma_z=(0.4, 1.0)),
        RandGaussianNoised(_KEYS, prob=0.2, std=0.1),
    ]
    pick = [PickSlice(_KEYS, foreground=0.0)] if plan.dims == 2 else []
    return Compose([*pick, *shared, _Repeat(Compose([*view, *changes]), views)])


class _Repeat(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Apply a random transform several times and stack the results."""

    def __init__(self, transform: Compose, times: int) -> None:
        self.transform = transform
        self.times = times

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Any:
        """Set the random state of the repeated transform."""
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def __call__(self, data: Sample) -> Sample:
        views = [self.transform(dict(data))["image"] for _ in range(self.times)]
        return {**data, "image": torch.stack(views)}
