"""Random resized crops in 2D and 3D, as used for pretraining on natural images."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms.transform import Randomizable
from torch import Tensor

from medmim.shapes import Size

_TRIES = 10  # afterwards a centred crop, as in torchvision
_ASPECT = math.log(4 / 3)


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
