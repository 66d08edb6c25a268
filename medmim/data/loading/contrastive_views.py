"""Several views of one patch, for methods that compare them: crops, flips and intensities drawn for each."""

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
from monai.transforms.spatial.dictionary import RandFlipd, Resized
from monai.transforms.transform import Randomizable

from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.random_resized_crop import RandomResizedCrop
from medmim.data.loading.transforms import FlipLeftRight, PadTo, PickSlice, Sample

_KEYS = ["image"]
_PART = 0.4  # of an image, at least: two such parts mostly overlap
_REGION = 1.5  # times the patch along each axis: what all views are cut from, so that they overlap


def patch_views(plan: PreprocessingPlan, *, views: int) -> Compose:
    """Return a transform that gives `image` as (views, channels, *size).

    All views lie in one region of 1.5 times the patch; each is a part of two thirds of it or more, scaled to
    the patch.

    Args:
        plan: dimensions and patch size.
        views: of each patch.
    """
    region = [round(_REGION * length) for length in plan.size]
    mode = "bilinear" if plan.dims == 2 else "trilinear"
    part = [
        RandScaleCropd(_KEYS, roi_scale=1 / _REGION, max_roi_scale=1.0, random_size=True),
        Resized(_KEYS, spatial_size=plan.size, mode=mode, align_corners=False),
        *(RandFlipd(_KEYS, prob=0.5, spatial_axis=axis) for axis in range(plan.dims)),
    ]
    shared = [PadTo(_KEYS, plan.size), RandSpatialCropd(_KEYS, region, random_size=False)]
    return Compose([*_slice(plan), *shared, _Repeat(Compose([*part, *_intensities()]), views)])


def resized_views(plan: PreprocessingPlan, *, views: int) -> Compose:
    """Return a transform that gives `image` as (views, channels, *size): parts of 0.4 to 1 of an image.

    Each is scaled to the patch, whatever the spacing; left and right are exchanged in half of them.

    Args:
        plan: dimensions and patch size.
        views: of each image.
    """
    part = [RandomResizedCrop(plan.size, scale=(_PART, 1.0)), FlipLeftRight(_KEYS)]
    return Compose([*_slice(plan), _Repeat(Compose([*part, *_intensities()]), views)])


def _slice(plan: PreprocessingPlan) -> list[Any]:
    return [PickSlice(_KEYS, foreground=0.0)] if plan.dims == 2 else []


def _intensities() -> list[Any]:
    return [
        RandAdjustContrastd(_KEYS, prob=0.5, gamma=(0.7, 1.5)),
        RandScaleIntensityd(_KEYS, factors=0.2, prob=0.5),
        RandShiftIntensityd(_KEYS, offsets=0.2, prob=0.5),
        RandGaussianSmoothd(_KEYS, prob=0.2, sigma_x=(0.4, 1.0), sigma_y=(0.4, 1.0), sigma_z=(0.4, 1.0)),
        RandGaussianNoised(_KEYS, prob=0.2, std=0.1),
    ]


class _Repeat(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Apply a transform several times, each with its own draws, and stack what comes out."""

    def __init__(self, transform: Compose, times: int) -> None:
        self.transform = transform
        self.times = times

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Any:
        """Hand the state on to what draws."""
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def __call__(self, data: Sample) -> Sample:
        views = [self.transform(dict(data))["image"] for _ in range(self.times)]
        return {**data, "image": torch.stack(views)}
