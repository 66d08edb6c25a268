"""Transforms that MONAI lacks: one slice of a volume, left for right, padding with the darkest value.

All take and give a sample: a mapping with `image` (channels, *space), `slice_axis` and what a task adds.
Where `places` is among it, it goes along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.transforms.croppad.array import SpatialPad
from monai.transforms.transform import Randomizable

from medmim.shapes import Size

Sample = dict[str, Any]
PLACES = "places"  # of a sample: labelled voxels, (places, axes)


class PickSlice(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Take one slice across the slice axis; with probability `foreground` one that holds foreground."""

    def __init__(self, keys: list[str], *, foreground: float) -> None:
        self.keys = keys
        self.foreground = foreground

    def randomize(self, data: Sample) -> int:
        """Choose a slice number."""
        axis = data["slice_axis"] + 1
        candidates = np.arange(data["image"].shape[axis])
        if self.foreground and self.R.random() < self.foreground:
            holding = np.unique(data[PLACES][:, axis - 1].numpy())
            candidates = holding if len(holding) else candidates
        return int(self.R.choice(candidates))

    def __call__(self, data: Sample) -> Sample:
        """Return the sample with one slice of each key."""
        chosen = self.randomize(data)
        axis = data["slice_axis"] + 1
        picked = {key: data[key].select(axis, chosen) for key in self.keys}
        if PLACES in data:
            places = data[PLACES][data[PLACES][:, axis - 1] == chosen]
            picked[PLACES] = places[:, [other for other in range(3) if other != axis - 1]]
        # Right-left is the first remaining axis, unless slices are cut across it (sagittal).
        return {**data, **picked, "left_right": None if data["slice_axis"] == 0 else 0}


class FlipLeftRight(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Exchange left and right in half of the draws."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def randomize(self, data: object = None) -> bool:
        """Choose whether to flip."""
        return bool(self.R.random() < 0.5)

    def __call__(self, data: Sample) -> Sample:
        """Return the sample as it is, or mirrored."""
        axis = data.get("left_right", 0)
        if not self.randomize() or axis is None:
            return data
        return {**data, **{key: data[key].flip(axis + 1) for key in self.keys}}


class PadTo:
    """Pad to at least `size`: images with their darkest value, labels with background."""

    def __init__(self, keys: list[str], size: Size) -> None:
        self.keys = keys
        self.size = size

    def __call__(self, data: Sample) -> Sample:
        """Return the sample with every key padded."""
        padded = dict(data)
        if PLACES in data:
            lengths = zip(data["image"].shape[1:], self.size, strict=True)
            before = [max(least - n, 0) // 2 for n, least in lengths]  # as `SpatialPad` shares it
            padded[PLACES] = data[PLACES] + torch.tensor(before, dtype=torch.int32)
        for key in self.keys:
            if any(n < least for n, least in zip(data[key].shape[1:], self.size, strict=True)):
                # asked only then: the darkest of a volume that is mapped from disk takes reading all of it
                value = float(data[key].min()) if key == "image" else 0
                padded[key] = SpatialPad(self.size, mode="constant", value=value)(data[key])
        return padded
