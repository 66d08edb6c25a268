"""Training samples for classification: a whole image or a patch with mild changes of place and intensity."""

from __future__ import annotations

import math

from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined

from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.transforms import FlipLeftRight, PadTo, PickSlice

_TURN = math.radians(15)


def classification_patches(plan: PreprocessingPlan) -> Compose:
    """Random slices in 2D, flips of left and right, small affine and intensity changes.

    With the view `whole` nothing is cropped: the class is that of the whole image.
    """
    keys = ["image"]
    return Compose(
        [
            *([PickSlice(keys, foreground=0.0)] if plan.dims == 2 else []),
            PadTo(keys, plan.size),
            RandSpatialCropd(keys, roi_size=plan.size, random_size=False),
            FlipLeftRight(keys),
            RandAffined(
                keys,
                prob=0.8,
                rotate_range=[_TURN] * (1 if plan.dims == 2 else 3),
                scale_range=[0.15] * plan.dims,
                translate_range=[0.08 * length for length in plan.size],
                mode="bilinear",
                padding_mode="border",
            ),
            RandAdjustContrastd(keys, prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoised(keys, prob=0.15, std=0.1),
            RandScaleIntensityd(keys, factors=0.2, prob=0.5),
            RandShiftIntensityd(keys, offsets=0.2, prob=0.5),
        ]
    )
