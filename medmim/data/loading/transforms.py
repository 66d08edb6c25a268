"""Transforms of samples that MONAI lacks: a slice of a volume, padding with the darkest value, resized crops.

A sample is a mapping with `image` (channels, *space), `slice_axis`, `axes` (RAS axis of each spatial axis)
and the entries of a task. `places`, labelled voxels, are transformed too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms.croppad.array import SpatialPad
from monai.transforms.transform import Randomizable
from torch import Tensor

from medmim.data.loading.foreground_sampling import pick_place
from medmim.shapes import Size

Sample = dict[str, Any]
_TRIES = 10  # of a resized crop; afterwards a centred crop, as in torchvision
_ASPECT = math.log(4 / 3)
PLACES = "places"  # of a sample: labelled voxels, (places, 1 + axes): class, then position


def axes_of(data: Sample) -> tuple[int, ...]:
    """Return the RAS axis of each spatial axis of a sample; all three unless a slice was taken."""
    return tuple(data.get("axes", range(data["image"].dim() - 1)))


class PickSlice(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Take one slice across the slice axis, with probability `foreground` one with a labelled voxel.

    The class of that voxel is drawn first, so that rare classes are as frequent as others.
    """

    def __init__(self, keys: list[str], *, foreground: float) -> None:
        self.keys = keys
        self.foreground = foreground

    def randomize(self, data: Sample) -> int:
        """Draw a slice index."""
        axis = data["slice_axis"]
        if self.foreground and len(data[PLACES]) and self.R.random() < self.foreground:
            return int(pick_place(data[PLACES], self.R)[axis])
        return int(self.R.randint(data["image"].shape[axis + 1]))

    def __call__(self, data: Sample) -> Sample:
        """Return the sample with one slice of each key."""
        chosen, axis = self.randomize(data), data["slice_axis"]
        picked = {key: data[key].select(axis + 1, chosen) for key in self.keys}
        others = tuple(other for other in range(3) if other != axis)
        if PLACES in data:
            places = data[PLACES][data[PLACES][:, axis + 1] == chosen]
            picked[PLACES] = places[:, [0, *(other + 1 for other in others)]]
        return {**data, **picked, "axes": others}


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
            before = [0, *(max(least - n, 0) // 2 for n, least in lengths)]  # as `SpatialPad` divides it
            padded[PLACES] = data[PLACES] + torch.tensor(before, dtype=torch.int32)
        for key in self.keys:
            if any(n < least for n, least in zip(data[key].shape[1:], self.size, strict=True)):
                # computed only here: the minimum of a memory-mapped volume reads all of it
                value = float(data[key].min()) if key == "image" else 0
                padded[key] = SpatialPad(self.size, mode="constant", value=value)(data[key])
        return padded


class RandomResizedCrop(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Crop a box of random volume, aspect ratio and position and resize it: bicubic in 2D, trilinear in 3D.

    As in torchvision: the share of the image's volume and the logarithm of the aspect ratio are uniform.

    Args:
        size: output size in voxels.
        scale: smallest and largest share of the image's volume.
    """

    def __init__(self, size: Size, *, scale: tuple[float, float]) -> None:
        self.size = size
        self.scale = scale

    def randomize(self, space: Size) -> tuple[Size, Size]:
        """Draw the first voxel and the size of a box."""
        for _ in range(_TRIES):
            box = self._box(space)
            if all(0 < length <= whole for length, whole in zip(box, space, strict=True)):
                free = [whole - length for length, whole in zip(box, space, strict=True)]
                return tuple(int(self.R.randint(0, room + 1)) for room in free), box
        longest = round(min(space) * math.exp(_ASPECT))
        box = tuple(min(length, longest) for length in space)
        return tuple((whole - length) // 2 for whole, length in zip(space, box, strict=True)), box

    def _box(self, space: Size) -> Size:
        dims = len(space)
        volume = math.prod(space) * self.R.uniform(*self.scale)
        sides = [*self.R.uniform(-_ASPECT, _ASPECT, size=dims - 1), 0.0]
        middle = sum(sides) / dims
        return tuple(round(volume ** (1 / dims) * math.exp(side - middle)) for side in sides)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with another `image`, (channels, *size)."""
        image: Tensor = torch.as_tensor(data["image"])
        first, box = self.randomize(tuple(image.shape[1:]))
        for axis, (start, length) in enumerate(zip(first, box, strict=True), start=1):
            image = image.narrow(axis, start, length)
        plane = len(self.size) == 2
        mode = "bicubic" if plane else "trilinear"
        scaled = F.interpolate(image[None], self.size, mode=mode, antialias=plane, align_corners=False)
        return {**data, "image": scaled[0]}
