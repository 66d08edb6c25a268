"""Random crops, rotated and scaled, without padded borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms.transform import Randomizable
from monai.transforms.utils import create_rotate, create_scale
from torch import Tensor

from medmim.data.loading.augmentation import Augmentation
from medmim.data.loading.foreground_sampling import pick_place, unlabelled_voxel
from medmim.data.loading.transforms import PLACES, Sample
from medmim.shapes import Size

_ANISOTROPIC = 3.0  # ratio of a patch's longest to shortest side above which rotation stays in plane


class RandAffineCrop(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Crop to `size` with random rotation and scale; a share of the crops is centred on a labelled voxel.

    The region that the affine map reads is cut out first, then resampled to `size`, so that patches have no
    empty corners. Where the region exceeds the image, it is padded with its lowest value, and its label with
    background.

    Args:
        keys: entries to crop; `image` is interpolated linearly, others take the nearest voxel.
        size: patch size in voxels; images are at least as large.
        foreground: share of crops around a labelled voxel, balanced over classes; None: any position.
    """

    def __init__(
        self, keys: Sequence[str], size: Size, *, foreground: float | None, augmentation: Augmentation
    ) -> None:
        self.keys = keys
        self.size = size
        self.foreground = foreground
        self.augmentation = augmentation

    def __call__(self, data: Sample) -> Sample:
        """Return the sample with every key cropped, without its labelled voxels."""
        first, matrix, shift = self._start(data), self._matrix(), self._shift()
        first = [start + move for start, move in zip(first, shift, strict=True)]
        kept = {key: value for key, value in data.items() if key != PLACES}
        return {
            **kept,
            **{key: self._crop(data[key], first, matrix, image=key == "image") for key in self.keys},
        }

    def _start(self, data: Sample) -> list[int]:
        """Draw the first voxel of the crop along each axis; crops lie inside the image."""
        space = data["image"].shape[1:]
        if self.foreground is None:
            return [
                int(self.R.randint(length - size + 1)) for length, size in zip(space, self.size, strict=True)
            ]
        places = data[PLACES]
        if len(places) and self.R.random() < self.foreground:
            centre = pick_place(places, self.R)
        else:
            centre = unlabelled_voxel(data["label"], self.R)
        lengths = zip(centre, self.size, space, strict=True)
        return [min(max(at - size // 2, 0), length - size) for at, size, length in lengths]

    def _shift(self) -> list[int]:
        """Draw a translation in voxels."""
        if self.R.random() >= self.augmentation.moving:
            return [0] * len(self.size)
        return [round(self.R.uniform(-1, 1) * self.augmentation.move * size) for size in self.size]

    def _matrix(self) -> np.ndarray | None:
        """Draw the map from patch to image, both relative to the patch centre in voxels; None: no change."""
        dims, chosen = len(self.size), self.augmentation
        rotates, scales = self.R.random() < chosen.rotation, self.R.random() < chosen.scaling
        if not rotates and not scales:
            return None
        matrix = np.eye(dims + 1)
        if rotates:
            angles = np.radians(self.R.uniform(-1, 1, 1 if dims == 2 else 3) * chosen.rotation_deg)
            if dims == 3 and max(self.size) > _ANISOTROPIC * min(self.size):
                angles *= np.arange(3) == int(np.argmin(self.size))
            matrix = create_rotate(dims, angles.tolist()) @ matrix
        if scales:
            matrix = matrix @ create_scale(dims, [1 / self.R.uniform(*chosen.scale)] * dims)
        return np.asarray(matrix[:dims, :dims])

    def _crop(self, value: Tensor, first: Sequence[int], matrix: np.ndarray | None, *, image: bool) -> Tensor:
        if matrix is None:
            return _window(value, first, self.size, image=image)
        half = np.array(self.size) / 2
        reach = np.ceil(np.abs(matrix) @ half + 1).astype(int)
        middle = np.array(first) + half
        start = np.floor(middle - reach).astype(int)
        part = _window(value, start.tolist(), (2 * reach + 1).tolist(), image=image)
        return _resampled(part, middle - start, matrix, self.size, image=image)


def _window(value: Tensor, first: Sequence[int], size: Sequence[int], *, image: bool) -> Tensor:
    """Return a window of (channels, *space), padded where it exceeds the array."""
    space = value.shape[1:]
    low = [max(start, 0) for start in first]
    high = [min(start + n, length) for start, n, length in zip(first, size, space, strict=True)]
    part = value[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    pads = [(a - start, start + n - b) for start, n, a, b in zip(first, size, low, high, strict=True)]
    if not any(map(any, pads)):
        return part
    widths = [width for pair in reversed(pads) for width in pair]
    return F.pad(part, widths, value=float(part.min()) if image else 0)


def _resampled(part: Tensor, centre: np.ndarray, matrix: np.ndarray, size: Size, *, image: bool) -> Tensor:
    """Return the patch whose voxel p, relative to its centre, samples the part at `centre + matrix @ p`."""
    space = np.array(part.shape[1:])
    # torch: coordinates from -1 to 1 over the outer edges of the voxels, the last axis first
    linear = (matrix * np.array(size)[None] / space[:, None])[::-1, ::-1]
    offset = (2 * centre / space - 1)[::-1]
    theta = torch.from_numpy(np.concatenate([linear, offset[:, None]], axis=1).copy()).float()
    grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
    mode = "bilinear" if image else "nearest"
    sampled = F.grid_sample(part[None].float(), grid, mode=mode, padding_mode="border", align_corners=False)
    return sampled[0].to(part.dtype)
