"""Training samples for detection: images with boxes that follow every spatial transform.

`boxes` is (n, 2 · dims) float32, first corner before last corner; `classes` is (n,) int64. The last
transform pads n to a fixed number with class -1, so that samples can be batched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from monai.transforms.compose import Compose
from monai.transforms.spatial.array import Affine
from monai.transforms.transform import Randomizable
from monai.transforms.utils import create_rotate, create_scale, create_translate
from torch import Tensor

from medmim.data.dataset.boxes import boxes_in_slice, boxes_to_2d
from medmim.data.loading.augmentation import PRESETS, Augmentation, intensity_changes
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.transforms import PadTo, Sample, axes_of
from medmim.shapes import Size

NONE = -1
_MIN_SIDE = 1.0  # voxels; clipped boxes with a shorter side are dropped
_MIN_SHARE = 0.4  # of a box's volume; boxes with less inside a crop are dropped

Flat = Float[Tensor, "boxes sides"]
DEFAULT = PRESETS["light"].model_copy(update={
    "rotation_deg": 10.0, "scaling": 0.8, "scale": (0.8, 1.2), "moving": 0.8, "move": 0.1, "blur": 0.0,
})  # fmt: skip


def detection_patches(
    plan: PreprocessingPlan, *, most: int, foreground: float, augmentation: Augmentation = DEFAULT
) -> Compose:
    """Return random crops (2D: of random slices), mirrored and augmented.

    Args:
        foreground: share of crops and slices with a box, for volumes with boxes.
    """
    return Compose(
        [
            PickBoxedSlice(foreground=foreground) if plan.dims == 2 else _all_axes,
            _PadBoxed(plan.size),
            RandBoxCrop(plan.size, foreground=foreground),
            RandMirrorBoxes(plan.mirror_axes),
            RandBoxAffine(
                plan.size,
                turn=math.radians(augmentation.rotation_deg),
                scale=augmentation.scale,
                shift=augmentation.move,
                chance=max(augmentation.rotation, augmentation.scaling, augmentation.moving),
            ),
            *intensity_changes(augmentation, plan.dims),
            _PadBoxes(most),
        ]
    )


class PickBoxedSlice(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Select a random slice and its boxes; with probability `foreground`, a slice with a box."""

    def __init__(self, *, foreground: float) -> None:
        self.foreground = foreground

    def randomize(self, data: Sample) -> int:
        """Draw a slice index."""
        axis, boxes = data["slice_axis"], data["boxes"].numpy()
        candidates = np.arange(data["image"].shape[axis + 1])
        if self.foreground and self.R.random() < self.foreground:
            holding = [index for index in candidates if boxes_in_slice(boxes, axis, int(index)).any()]
            candidates = np.array(holding) if holding else candidates
        return int(self.R.choice(candidates))

    def __call__(self, data: Sample) -> Sample:
        """Return the slice and its boxes without the slice axis."""
        chosen, axis = self.randomize(data), data["slice_axis"]
        boxes = data["boxes"].numpy()
        cut = boxes_in_slice(boxes, axis, chosen)
        return {
            **data,
            "image": data["image"].select(axis + 1, chosen),
            "boxes": torch.from_numpy(boxes_to_2d(boxes[cut], axis)).float(),
            "classes": data["classes"][torch.from_numpy(cut)],
            "axes": tuple(other for other in range(3) if other != axis),
        }


class RandBoxCrop(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Crop to `size`, with probability `foreground` around a box; drop boxes that are mostly outside."""

    def __init__(self, size: Size, *, foreground: float) -> None:
        self.size = size
        self.foreground = foreground

    def randomize(self, data: Sample) -> list[int]:
        """Draw the first voxel of the crop along each axis."""
        room = [length - size for length, size in zip(data["image"].shape[1:], self.size, strict=True)]
        boxes = data["boxes"]
        if len(boxes) and self.R.random() < self.foreground:
            box = boxes[self.R.randint(len(boxes))]
            dims = len(self.size)
            place = box[:dims] + (box[dims:] - box[:dims]) * torch.from_numpy(self.R.random(dims)).float()
            middle = [
                float(p) - size * self.R.uniform(0.25, 0.75) for p, size in zip(place, self.size, strict=True)
            ]
            return [int(min(max(first, 0), most)) for first, most in zip(middle, room, strict=True)]
        return [int(self.R.randint(most + 1)) for most in room]

    def __call__(self, data: Sample) -> Sample:
        """Return the crop and the boxes in it."""
        first = self.randomize(data)
        window = tuple(slice(start, start + size) for start, size in zip(first, self.size, strict=True))
        shifted = data["boxes"] - torch.tensor([*first, *first], dtype=torch.float32)
        return _clipped({**data, "image": data["image"][(slice(None), *window)]}, shifted)


class RandMirrorBoxes(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Mirror image and boxes along each allowed axis with probability 1/2.

    Args:
        axes: allowed axes in RAS order; those that a slice does not have are ignored.
    """

    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = axes

    def __call__(self, data: Sample) -> Sample:
        """Return the sample, mirrored."""
        image, boxes, dims = data["image"], data["boxes"].clone(), data["image"].dim() - 1
        for number, axis in enumerate(axes_of(data)):
            if axis in self.axes and self.R.random() < 0.5:
                image, length = image.flip(number + 1), image.shape[number + 1]
                ends = length - boxes[:, [number + dims, number]]
                boxes[:, [number, number + dims]] = ends
        return {**data, "image": image, "boxes": boxes}


class RandBoxAffine(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Rotate, scale and shift the image; a box becomes the bounding box of its transformed inscribed ellipse.

    Findings are rounder than their boxes: the bounding box of the rotated corners would be too large.

    Args:
        size: image size in voxels.
        scale: range of the magnification.
        shift: largest shift as a share of the size.
        chance: probability of the transform.
    """

    def __init__(
        self, size: Size, *, turn: float, scale: tuple[float, float], shift: float, chance: float
    ) -> None:
        self.size = size
        self.turn = turn
        self.scale = scale
        self.shift = shift
        self.chance = chance

    def randomize(self, data: object = None) -> np.ndarray | None:
        """Draw the affine map from output to input voxels, both relative to the centre; None: no change."""
        dims = len(self.size)
        if self.R.random() >= self.chance:
            return None
        angles = self.R.uniform(-self.turn, self.turn, 1 if dims == 2 else 3)
        scales = np.ones(dims) / self.R.uniform(*self.scale)
        shifts = self.R.uniform(-self.shift, self.shift, dims) * self.size
        rotate = create_rotate(dims, angles.tolist())
        return np.asarray(
            rotate @ create_scale(dims, scales.tolist()) @ create_translate(dims, shifts.tolist())
        )

    def __call__(self, data: Sample) -> Sample:
        """Return the transformed sample."""
        matrix = self.randomize()
        if matrix is None:
            return data
        warp = Affine(affine=matrix, mode="bilinear", padding_mode="zeros", image_only=True)
        darkest = data["image"].min()  # fills the area outside the image
        moved = warp(data["image"] - darkest) + darkest
        return _clipped({**data, "image": moved}, warped(data["boxes"], matrix, self.size))


def warped(boxes: Flat, matrix: np.ndarray, size: Sequence[int]) -> Flat:
    """Return the bounding boxes of the transformed ellipses inscribed in `boxes`.

    Args:
        matrix: homogeneous map from output to input voxels, both relative to the centre.
        size: image size in voxels.
    """
    dims = len(size)
    onward = torch.from_numpy(np.linalg.inv(matrix)).float()
    linear, shift = onward[:dims, :dims], onward[:dims, dims]
    middle = torch.tensor(size, dtype=torch.float32) / 2
    centres = (boxes[:, :dims] + boxes[:, dims:]) / 2 - middle
    halves = (boxes[:, dims:] - boxes[:, :dims]) / 2
    centres = centres @ linear.T + shift + middle
    # extent of an ellipse along an axis after a linear map: norm of that row times the semi-axes
    halves = (halves.square() @ linear.square().T).sqrt()
    return torch.cat([centres - halves, centres + halves], dim=1)


def _all_axes(data: Sample) -> Sample:
    return {**data, "boxes": data["boxes"].float()}


class _PadBoxed:
    """Pad the image to at least `size` on both sides and shift the boxes."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.pad = PadTo(["image"], size)

    def __call__(self, data: Sample) -> Sample:
        before = [
            max(size - length, 0) // 2
            for size, length in zip(self.size, data["image"].shape[1:], strict=True)
        ]
        boxes = data["boxes"] + torch.tensor([*before, *before], dtype=torch.float32)
        return {**self.pad(data), "boxes": boxes}


class _PadBoxes:
    """Pad every sample to the same number of boxes."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, data: Sample) -> Sample:
        boxes, classes = data["boxes"][: self.most], data["classes"][: self.most]
        missing = self.most - len(boxes)
        return {
            **data,
            "boxes": torch.nn.functional.pad(boxes, (0, 0, 0, missing)),
            "classes": torch.nn.functional.pad(classes, (0, missing), value=NONE),
        }


def _clipped(data: Sample, boxes: Flat) -> Sample:
    """Return the sample with boxes clipped to the image, without boxes that are mostly outside."""
    dims = boxes.shape[1] // 2
    limits = torch.tensor(data["image"].shape[1:], dtype=torch.float32).repeat(2)
    inside = torch.minimum(boxes.clamp(min=0), limits)
    sides = inside[:, dims:] - inside[:, :dims]
    whole = (boxes[:, dims:] - boxes[:, :dims]).prod(dim=1)
    kept = (sides.min(dim=1).values >= _MIN_SIDE) & (sides.prod(dim=1) >= _MIN_SHARE * whole)
    return {**data, "boxes": inside[kept], "classes": data["classes"][kept]}
