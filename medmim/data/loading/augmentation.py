"""Augmentation of training patches: affine crops without padded borders, and intensity changes.

Presets are none, light and nnunet (probabilities and ranges of nnU-Net's default augmentation). A YAML file
may set any strength, and `module:callable` replaces the intensity changes by the user's own transform.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandSimulateLowResolutiond
from monai.transforms.transform import Randomizable
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medmim.config.own_code import import_callable
from medmim.config.yaml_settings import read_yaml
from medmim.data.loading.transforms import Sample
from medmim.errors import RunError, UsageError

Range = tuple[float, float]


class Augmentation(BaseModel):
    """Probability and strength of every change; ranges are uniform, intensities are normalised ones.

    Attributes:
        rotation, rotation_deg: probability, and largest angle about each axis.
        scaling, scale: probability, and range of the magnification.
        moving, move: probability, and largest translation as a share of the patch.
        noise, noise_sd: probability, and largest standard deviation of Gaussian noise.
        blur, blur_sigma: probability, and range of the Gaussian's sigma in voxels.
        brightness, brightness_factor: probability, and relative change of all intensities.
        shift, shift_by: probability, and largest constant added.
        contrast, contrast_factor: probability, and relative change of the distance to the mean.
        low_resolution, zoom: probability, and range of the factor of down- and upsampling.
        gamma, inverted_gamma, gamma_range: probabilities for the image and its inverse, and range of the
            exponent.
        own: import path `module:callable` of a transform that replaces the intensity changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: float = Field(default=0.0, ge=0, le=1)
    rotation_deg: float = Field(default=0.0, ge=0, le=180)
    scaling: float = Field(default=0.0, ge=0, le=1)
    scale: Range = (1.0, 1.0)
    moving: float = Field(default=0.0, ge=0, le=1)
    move: float = 0.0
    noise: float = Field(default=0.0, ge=0, le=1)
    noise_sd: float = 0.1
    blur: float = Field(default=0.0, ge=0, le=1)
    blur_sigma: Range = (0.5, 1.0)
    brightness: float = Field(default=0.0, ge=0, le=1)
    brightness_factor: float = 0.25
    shift: float = Field(default=0.0, ge=0, le=1)
    shift_by: float = 0.2
    contrast: float = Field(default=0.0, ge=0, le=1)
    contrast_factor: float = 0.25
    low_resolution: float = Field(default=0.0, ge=0, le=1)
    zoom: Range = (0.5, 1.0)
    gamma: float = Field(default=0.0, ge=0, le=1)
    inverted_gamma: float = Field(default=0.0, ge=0, le=1)
    gamma_range: Range = (0.7, 1.5)
    own: str | None = None


PRESETS = {
    "none": Augmentation(),
    "light": Augmentation(
        rotation=0.5, rotation_deg=15, scaling=0.5, scale=(0.85, 1.15), noise=0.15, blur=0.15, brightness=0.5,
        brightness_factor=0.2, shift=0.5,
    ),
    "nnunet": Augmentation(
        rotation=0.2, rotation_deg=30, scaling=0.2, scale=(0.7, 1.4), noise=0.1, noise_sd=0.32, blur=0.2,
        brightness=0.15, contrast=0.15, low_resolution=0.25, gamma=0.3, inverted_gamma=0.1,
    ),
}  # fmt: skip


def load_augmentation(chosen: str | Mapping[str, Any]) -> Augmentation:
    """Return the augmentation of a setting.

    Args:
        chosen: none, light, nnunet or module:callable, or fields of `Augmentation`, or a YAML file with them;
            `preset` names the one that they change.

    Raises:
        UsageError: for another name, or other fields.
        SettingsError: for a file that cannot be read.
    """
    if not isinstance(chosen, str):
        return _of_fields(chosen)
    if chosen in PRESETS:
        return PRESETS[chosen]
    if chosen.endswith((".yaml", ".yml")):
        return _of_fields(read_yaml(Path(chosen)))
    if ":" in chosen:
        _imported(chosen)
        return PRESETS["nnunet"].model_copy(update={"own": chosen})
    known = ", ".join(PRESETS)
    raise UsageError(f"augment: expected {known}, a YAML file or module:callable, got '{chosen}'")


def _of_fields(fields: Mapping[str, Any]) -> Augmentation:
    """Return the augmentation with these fields; the others are those of its preset."""
    try:
        base = PRESETS[fields.get("preset", "none")].model_dump()
        given = {name: value for name, value in fields.items() if name != "preset"}
        chosen = Augmentation.model_validate({**base, **given})
    except (KeyError, TypeError, ValidationError) as error:
        raise UsageError(
            f"augment: cannot use {dict(fields)} ({type(error).__name__}): expected fields such as "
            "preset: nnunet and gamma: 0.5"
        ) from error
    if chosen.own:
        _imported(chosen.own)
    return chosen


def intensity_changes(chosen: Augmentation, dims: int) -> list[Any]:
    """Return the transforms of `image` in nnU-Net's order, those of probability 0 left out."""
    if chosen.own:
        return [_OwnTransform(chosen.own)]
    up = "bilinear" if dims == 2 else "trilinear"
    sigma = dict.fromkeys(("sigma_x", "sigma_y", "sigma_z"), chosen.blur_sigma)
    gamma = {"gamma": chosen.gamma_range, "retain_stats": True}
    table: list[tuple[float, Callable[..., Any], dict[str, Any]]] = [
        (chosen.noise, RandGaussianNoised, {"std": chosen.noise_sd}),
        (chosen.blur, RandGaussianSmoothd, sigma),
        (chosen.brightness, RandScaleIntensityd, {"factors": chosen.brightness_factor}),
        (chosen.shift, RandShiftIntensityd, {"offsets": chosen.shift_by}),
        (
            chosen.contrast,
            RandScaleIntensityFixedMeand,
            {"factors": chosen.contrast_factor, "preserve_range": True},
        ),
        (
            chosen.low_resolution,
            RandSimulateLowResolutiond,
            {
                "downsample_mode": "nearest",
                "upsample_mode": up,
                "zoom_range": chosen.zoom,
                "align_corners": False,
            },
        ),
        (chosen.inverted_gamma, RandAdjustContrastd, {**gamma, "invert_image": True}),
        (chosen.gamma, RandAdjustContrastd, gamma),
    ]
    return [make("image", prob=share, **options) for share, make, options in table if share]


class _OwnTransform(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """A user's transform of a sample, with torch and numpy seeded for every sample."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.transform = _imported(word)

    def __call__(self, data: Sample) -> Sample:
        seed = int(self.R.randint(2**31))
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = self.transform(dict(data))
        if not isinstance(found, Mapping) or found.keys() < data.keys():
            got = f"{len(found)} entries" if isinstance(found, Mapping) else type(found).__name__
            raise RunError(
                f"augment: '{self.word}' must return the dict of tensors that it got "
                f"({', '.join(sorted(map(str, data)))}), got {got}"
            )
        for key in ("image", "label"):
            if key in data and found[key].shape != data[key].shape:
                shapes = [tuple(one[key].shape) for one in (data, found)]
                raise RunError(
                    f"augment: '{self.word}' changed the shape of '{key}': expected {shapes[0]}, got "
                    f"{shapes[1]}"
                )
        return dict(found)


def _imported(word: str) -> Callable[[Sample], Sample]:
    """Return the transform that the user's callable makes.

    Raises:
        UsageError: if it cannot be imported or called.
    """
    expected = (
        "a callable without arguments that returns a transform from sample to sample (a dict of tensors)"
    )
    make = import_callable(word, word="--set augment=", expected=expected)
    try:
        made: Callable[[Sample], Sample] = make()
    except TypeError as error:
        raise UsageError(f"augment: cannot call '{word}' ({error}): expected {expected}") from error
    if not callable(made):
        raise UsageError(f"augment: expected '{word}' to return a transform, got {type(made).__name__}")
    return made
