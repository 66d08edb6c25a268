"""Intensity normalisation: one rule for each modality, with its statistics; part of the preprocessing plan.

- `dataset` (CT): clip to fixed limits, subtract a fixed mean, divide by a fixed standard deviation. The four
  numbers are computed from the training patients in `fingerprint.py`.
- `body` (MR, PET, US): clip to percentiles (the upper one of the body), then z-score with the body's mean
  and sd.
- `volume` (XR and others): clip to percentiles of all voxels, then z-score with their mean and sd.
- `none`: no change.
- `legacy` (models of earlier versions): z-score of all voxels, CT after clipping at ±1000 HU.

The body is what exceeds a share of the robust intensity range: air outside of it does not change the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medmim.errors import UsageError

Method = Literal["dataset", "body", "volume", "none", "legacy"]
Voxels = Float[Tensor, "*space"]

_SMALLEST_SD = 1e-8
_SAMPLED = 1_000_000  # voxels from which percentiles are computed
_LEGACY_CT_HU = (-1000.0, 1000.0)


class IntensityRule(BaseModel):
    """Normalisation of one modality.

    Attributes:
        method: see the module.
        low, high, mean, sd: limits and statistics of `dataset`, in units of the image.
        percentiles: limits of `body` and `volume`.
        body_above: share of the range between the darkest voxel and the 99.5th percentile above which a voxel
            belongs to the body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    sd: float = 1.0
    percentiles: tuple[float, float] = (0.5, 99.5)
    body_above: float = 0.1


class IntensityStatistics(BaseModel):
    """Intensities of a modality: 0.5th and 99.5th percentile, and mean and sd of the values clipped to them.

    `region` is `labels` (foreground), `body`, or `above air`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    mean: float
    sd: float
    median: float
    region: str


_VOLUME = IntensityRule(method="volume")
DEFAULT_RULES: Mapping[str, IntensityRule] = {
    # without statistics of a data set: the range of soft tissue, lung and bone
    "CT": IntensityRule(method="dataset", low=-1000, high=1000, mean=0, sd=500),
    "MR": IntensityRule(method="body"),
    "PT": IntensityRule(method="body", percentiles=(0.0, 99.9), body_above=0.02),  # keeps hot lesions
    "NM": IntensityRule(method="body", percentiles=(0.0, 99.9), body_above=0.02),
    "US": IntensityRule(method="body", body_above=0.02),  # black outside of the fan
}


class Normalisation(BaseModel):
    """The rules of a data set; modalities without one use `DEFAULT_RULES`, then `volume`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: dict[str, IntensityRule] = Field(default_factory=dict)
    legacy: bool = False

    def rule_for(self, modality: str) -> IntensityRule:
        """Return the rule of a modality (a DICOM code such as CT, MR or PT)."""
        if self.legacy:
            return IntensityRule(method="legacy")
        return self.rules.get(modality) or self.rules.get("*") or DEFAULT_RULES.get(modality, _VOLUME)

    def __call__(self, image: Float[Tensor, "channels *space"], modalities: list[str]) -> Tensor:
        """Normalise an image, channel by channel.

        Args:
            image: intensities as stored, in HU for CT.
            modalities: modality of each channel.
        """
        pairs = zip(image.float(), modalities, strict=True)
        return torch.stack([normalise(one, self.rule_for(modality), modality) for one, modality in pairs])

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return self.model_dump(mode="json")


LEGACY = Normalisation(legacy=True)


def choose_normalisation(
    intensities: Mapping[str, IntensityStatistics], wanted: str, window: Sequence[float] | None
) -> Normalisation:
    """Return the normalisation of a data set.

    Args:
        intensities: statistics of the training volumes, by modality; see `fingerprint.py`.
        wanted: auto (by modality), or a method of `IntensityRule` for all modalities.
        window: lowest and highest intensity to keep, in HU for CT; None: from the data.

    Raises:
        UsageError: for a window with a method that has none.
    """
    if window and wanted not in ("auto", "dataset"):
        raise UsageError(
            f"window: normalisation={wanted} has none; leave it out, or use normalisation=dataset"
        )
    rules: dict[str, IntensityRule] = {}
    for modality, found in intensities.items():
        method = wanted if wanted != "auto" else Normalisation().rule_for(modality).method
        if window and wanted == "auto":
            method = "dataset"
        if method == "dataset":
            low, high = window or (found.low, found.high)
            inside = min(max(found.mean, low), high)
            rule = IntensityRule(method="dataset", low=low, high=high, mean=inside, sd=found.sd)
            rules[modality] = rule
        elif wanted != "auto":
            rules[modality] = IntensityRule.model_validate({"method": method})
    if wanted not in ("auto", "dataset"):
        rules["*"] = IntensityRule.model_validate({"method": wanted})
    return Normalisation(rules=rules)


def normalise(voxels: Voxels, rule: IntensityRule, modality: str) -> Tensor:
    """Normalise one channel by a rule."""
    if rule.method == "none":
        return voxels
    if rule.method == "dataset":
        return (voxels.clamp(rule.low, rule.high) - rule.mean) / max(rule.sd, _SMALLEST_SD)
    if rule.method == "legacy":
        return _legacy(voxels, modality)
    low, high = _percentiles(voxels.flatten(), rule.percentiles)
    inside = voxels.flatten()
    if rule.method == "body":  # a lower limit from the body would merge the background with dark tissue
        inside = voxels[body_mask(voxels, above=rule.body_above)]
        _, high = _percentiles(inside, rule.percentiles)
    inside = inside.clamp(low, high)
    return (voxels.clamp(low, high) - inside.mean()) / _sd(inside)


def body_mask(voxels: Voxels, *, above: float = 0.1) -> Bool[Tensor, "*space"]:
    """Return the voxels brighter than a share of the robust range; all voxels of a constant image."""
    low, high = float(voxels.min()), _percentiles(voxels.flatten(), (99.5, 99.5))[0]
    mask: Tensor = voxels > low + above * (high - low)
    return mask if mask.any() else torch.ones_like(mask)


def _legacy(voxels: Voxels, modality: str) -> Tensor:
    if modality == "CT":
        clipped = voxels.clamp(*_LEGACY_CT_HU)
    else:
        low, high = np.percentile(voxels.numpy(), (0.5, 99.5))
        clipped = (voxels.clamp(float(low), float(high)) - low) / ((high - low) or 1.0)
    return (clipped - clipped.mean()) / _sd(clipped)


def _percentiles(values: Float[Tensor, " voxels"], shares: tuple[float, float]) -> tuple[float, float]:
    step = max(1, len(values) // _SAMPLED)
    low, high = np.percentile(values[::step].numpy(), shares)
    return float(low), float(high)


def _sd(values: Tensor) -> float:
    sd = float(values.std(correction=0))
    return sd if sd > _SMALLEST_SD else 1.0
