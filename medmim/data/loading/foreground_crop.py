"""Where a label is: looked up when a volume is prepared, so that a draw reads no more than its patch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int32
from monai.transforms.transform import Randomizable
from torch import Tensor

from medmim.data.loading.transforms import PLACES, Sample
from medmim.shapes import Size

_MOST = 1 << 16  # places that are kept of a volume: 0.8 MB
_TRIES = 16


def labelled_places(label: Tensor) -> Int32[Tensor, "places 3"]:
    """Return voxels that have a label, all or evenly spread among them where they are many.

    Args:
        label: (1, x, y, z); 0: background.
    """
    flat = np.flatnonzero(label[0].numpy())
    if len(flat) > _MOST:
        flat = flat[np.linspace(0, len(flat) - 1, _MOST).astype(np.int64)]
    places = np.stack(np.unravel_index(flat, label.shape[1:]), axis=1)
    return torch.from_numpy(places.astype(np.int32))


class CropAroundLabel(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Crop to `size`, a share of the crops around a labelled voxel, the others around one without a label.

    The crops of MONAI's `RandCropByPosNegLabel`, which looks through the whole label for each: half a second
    and 600 MB for a CT of 512 × 512 × 200.

    Args:
        keys: what is cropped; `label` is one of them.
        size: of the patch in voxels; images are no smaller.
        foreground: share of crops around a labelled voxel, where there is one.
    """

    def __init__(self, keys: Sequence[str], size: Size, *, foreground: float) -> None:
        self.keys = keys
        self.size = size
        self.foreground = foreground

    def randomize(self, data: Sample) -> list[int]:
        """Choose the first voxel of the crop along each axis."""
        places, space = data[PLACES], data["label"].shape[1:]
        if len(places) and self.R.random() < self.foreground:
            middle = places[self.R.randint(len(places))].tolist()
        else:
            middle = self._unlabelled(data["label"])
        lengths = zip(middle, self.size, space, strict=True)
        return [min(max(at - size // 2, 0), length - size) for at, size, length in lengths]

    def __call__(self, data: Sample) -> Sample:
        """Return the sample with every key cropped, and without its places."""
        first = self.randomize(data)
        window = tuple(slice(start, start + size) for start, size in zip(first, self.size, strict=True))
        kept = {key: value for key, value in data.items() if key != PLACES}
        return {**kept, **{key: data[key][(slice(None), *window)] for key in self.keys}}

    def _unlabelled(self, label: Tensor) -> list[int]:
        """Return a voxel without a label, or any where these are hard to find."""
        middle: list[int] = []
        for _ in range(_TRIES):
            middle = [int(self.R.randint(length)) for length in label.shape[1:]]
            if not label[(0, *middle)]:
                break
        return middle
