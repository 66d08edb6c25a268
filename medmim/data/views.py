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

from medmim.data.plan import Plan
from medmim.data.transforms import PadTo, PickSlice, Sample

_REGION = 1.5  # times the patch along each axis: what all views are cut from, so that they overlap


def patch_views(plan: Plan, *, views: int) -> Compose:
    """Return a transform that gives `image` as (views, channels, *size).

    All views lie in one region of 1.5 times the patch; each is a part of two thirds of it or more, scaled to
    the patch.

    Args:
        plan: dimensions and patch size.
        views: of each patch.
    """
    keys = ["image"]
    region = [round(_REGION * length) for length in plan.size]
    mode = "bilinear" if plan.dims == 2 else "trilinear"
    single = Compose(
        [
            RandScaleCropd(keys, roi_scale=1 / _REGION, max_roi_scale=1.0, random_size=True),
            Resized(keys, spatial_size=plan.size, mode=mode, align_corners=False),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(plan.dims)),
            RandAdjustContrastd(keys, prob=0.5, gamma=(0.7, 1.5)),
            RandScaleIntensityd(keys, factors=0.2, prob=0.5),
            RandShiftIntensityd(keys, offsets=0.2, prob=0.5),
            RandGaussianSmoothd(keys, prob=0.2, sigma_x=(0.4, 1.0), sigma_y=(0.4, 1.0), sigma_z=(0.4, 1.0)),
            RandGaussianNoised(keys, prob=0.2, std=0.1),
        ]
    )
    slices = [PickSlice(keys, foreground=0.0)] if plan.dims == 2 else []
    shared = [*slices, PadTo(keys, plan.size), RandSpatialCropd(keys, region, random_size=False)]
    return Compose([*shared, _Repeat(single, views)])


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
        views = [self.transform({"image": data["image"]})["image"] for _ in range(self.times)]
        return {**data, "image": torch.stack(views)}
