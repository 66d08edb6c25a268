"""Training samples for detection: images with boxes that follow every change of place.

`boxes` is (n, 2 · dims) float32 with the first corner before the last, `classes` (n,) int64. At the end n is
fixed: what is missing has the class -1, so that samples stack to batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.array import Affine
from monai.transforms.transform import Randomizable
from monai.transforms.utils import create_rotate, create_scale, create_translate
from torch import Tensor

from medmim.data.dataset.boxes import boxes_in_slice, boxes_to_2d
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.transforms import PadTo, Sample
from medmim.shapes import Size

NONE = -1
_LEAST = 1.0  # voxels; a box of which less is left along an axis is no finding any more
_KEPT = 0.4  # share of a box; with less inside of a crop it is left out

Flat = Float[Tensor, "boxes sides"]


def detection_patches(plan: PreprocessingPlan, *, most: int, foreground: float) -> Compose:
    """Random slices in 2D, crops, flips, affine and intensity changes.

    Args:
        plan: dimensions and size.
        most: boxes that a sample has room for.
        foreground: share of crops, and of slices, that hold a box where there is one.
    """
    return Compose(
        [
            PickBoxedSlice(foreground=foreground) if plan.dims == 2 else _all_axes,
            _PadBoxed(plan.size),
            RandBoxCrop(plan.size, foreground=foreground),
            FlipBoxes(),
            RandBoxAffine(plan.size, turn=math.radians(10), scale=0.2, shift=0.1, chance=0.8),
            RandGaussianNoised("image", prob=0.15, std=0.1),
            RandScaleIntensityd("image", factors=0.2, prob=0.5),
            RandShiftIntensityd("image", offsets=0.2, prob=0.5),
            _Room(most),
        ]
    )


class PickBoxedSlice(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Take one slice and the boxes that it cuts; with probability `foreground` one that cuts a box."""

    def __init__(self, *, foreground: float) -> None:
        self.foreground = foreground

    def randomize(self, data: Sample) -> int:
        """Choose a slice number."""
        axis, boxes = data["slice_axis"], data["boxes"].numpy()
        candidates = np.arange(data["image"].shape[axis + 1])
        if self.foreground and self.R.random() < self.foreground:
            holding = [index for index in candidates if boxes_in_slice(boxes, axis, int(index)).any()]
            candidates = np.array(holding) if holding else candidates
        return int(self.R.choice(candidates))

    def __call__(self, data: Sample) -> Sample:
        """Return the slice and its boxes, without the axis that it is cut across."""
        chosen, axis = self.randomize(data), data["slice_axis"]
        boxes = data["boxes"].numpy()
        cut = boxes_in_slice(boxes, axis, chosen)
        return {
            **data,
            "image": data["image"].select(axis + 1, chosen),
            "boxes": torch.from_numpy(boxes_to_2d(boxes[cut], axis)).float(),
            "classes": data["classes"][torch.from_numpy(cut)],
            # right-left is the first remaining axis, unless slices are cut across it (sagittal)
            "left_right": None if axis == 0 else 0,
        }


class RandBoxCrop(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Crop to `size`, a share of the crops around a box; boxes of which too little is left are dropped."""

    def __init__(self, size: Size, *, foreground: float) -> None:
        self.size = size
        self.foreground = foreground

    def randomize(self, data: Sample) -> list[int]:
        """Choose the first voxel of the crop along each axis."""
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


class FlipBoxes(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Exchange left and right in half of the draws."""

    def randomize(self, data: object = None) -> bool:
        """Choose whether to flip."""
        return bool(self.R.random() < 0.5)

    def __call__(self, data: Sample) -> Sample:
        """Return the sample as it is, or mirrored."""
        axis = data.get("left_right", 0)
        if not self.randomize() or axis is None:
            return data
        length, dims = data["image"].shape[axis + 1], data["image"].dim() - 1
        boxes = data["boxes"].clone()
        boxes[:, axis] = length - data["boxes"][:, axis + dims]
        boxes[:, axis + dims] = length - data["boxes"][:, axis]
        return {**data, "image": data["image"].flip(axis + 1), "boxes": boxes}


class RandBoxAffine(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Turn, scale and shift the image; a box becomes the box around the turned ellipse that it held.

    Findings are rounder than their boxes: a box around the turned corners would be too large.

    Args:
        size: of the image in voxels.
        turn: largest angle in radians.
        scale: largest relative change of size.
        shift: largest shift as a share of the size.
        chance: share of the draws that are changed.
    """

    def __init__(self, size: Size, *, turn: float, scale: float, shift: float, chance: float) -> None:
        self.size = size
        self.turn = turn
        self.scale = scale
        self.shift = shift
        self.chance = chance

    def randomize(self, data: object = None) -> np.ndarray | None:
        """Choose the map from voxels of the result to voxels of the image, both counted from the centre."""
        dims = len(self.size)
        if self.R.random() >= self.chance:
            return None
        angles = self.R.uniform(-self.turn, self.turn, 1 if dims == 2 else 3)
        scales = 1 + self.R.uniform(-self.scale, self.scale) * np.ones(dims)
        shifts = self.R.uniform(-self.shift, self.shift, dims) * self.size
        rotate = create_rotate(dims, angles.tolist())
        return np.asarray(
            rotate @ create_scale(dims, scales.tolist()) @ create_translate(dims, shifts.tolist())
        )

    def __call__(self, data: Sample) -> Sample:
        """Return the sample as it is, or changed."""
        matrix = self.randomize()
        if matrix is None:
            return data
        warp = Affine(affine=matrix, mode="bilinear", padding_mode="border", image_only=True)
        return _clipped({**data, "image": warp(data["image"])}, warped(data["boxes"], matrix, self.size))


def warped(boxes: Flat, matrix: np.ndarray, size: Sequence[int]) -> Flat:
    """Return the boxes around ellipses that filled `boxes`, after an image was sampled through `matrix`.

    Args:
        boxes: before.
        matrix: voxels of the result → voxels of the image, both counted from the centre, homogeneous.
        size: of the image in voxels.
    """
    dims = len(size)
    onward = torch.from_numpy(np.linalg.inv(matrix)).float()
    linear, shift = onward[:dims, :dims], onward[:dims, dims]
    middle = torch.tensor(size, dtype=torch.float32) / 2
    centres = (boxes[:, :dims] + boxes[:, dims:]) / 2 - middle
    halves = (boxes[:, dims:] - boxes[:, :dims]) / 2
    centres = centres @ linear.T + shift + middle
    # how far an ellipse reaches along an axis after a linear map: the norm of that row times the half axes
    halves = (halves.square() @ linear.square().T).sqrt()
    return torch.cat([centres - halves, centres + halves], dim=1)


def _all_axes(data: Sample) -> Sample:
    return {**data, "boxes": data["boxes"].float()}


class _PadBoxed:
    """Pad the image to at least `size`, on both sides; boxes move with it."""

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


class _Room:
    """Give every sample room for the same number of boxes."""

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
    """Return the sample with its new boxes clipped to the image, without those of which little is left."""
    dims = boxes.shape[1] // 2
    limits = torch.tensor(data["image"].shape[1:], dtype=torch.float32).repeat(2)
    inside = torch.minimum(boxes.clamp(min=0), limits)
    sides = inside[:, dims:] - inside[:, :dims]
    whole = (boxes[:, dims:] - boxes[:, :dims]).prod(dim=1)
    kept = (sides.min(dim=1).values >= _LEAST) & (sides.prod(dim=1) >= _KEPT * whole)
    return {**data, "boxes": inside[kept], "classes": data["classes"][kept]}
