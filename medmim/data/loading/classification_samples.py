"""Training samples for classification: a whole image or a patch, with mild spatial and intensity changes."""

from __future__ import annotations

from monai.transforms.compose import Compose

from medmim.data.loading.affine_crop import RandAffineCrop
from medmim.data.loading.augmentation import PRESETS, Augmentation, intensity_changes
from medmim.data.loading.mirroring import RandMirror
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.transforms import PadTo, PickSlice

DEFAULT = PRESETS["light"].model_copy(
    update={"rotation": 0.8, "scaling": 0.8, "gamma": 0.3, "blur": 0.0, "moving": 0.8, "move": 0.08}
)


def classification_patches(plan: PreprocessingPlan, augmentation: Augmentation = DEFAULT) -> Compose:
    """Return random slices in 2D, mirrored and augmented.

    With the field of view `whole`, images already have the size of the plan and are not cropped, because the
    class may depend on any part of the image.
    """
    keys = ["image"]
    return Compose(
        [
            *([PickSlice(keys, foreground=0.0)] if plan.dims == 2 else []),
            PadTo(keys, plan.size),
            RandAffineCrop(keys, plan.size, foreground=None, augmentation=augmentation),
            RandMirror(keys, plan.mirror_axes),
            *intensity_changes(augmentation, plan.dims),
        ]
    )
