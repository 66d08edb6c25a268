"""Random patches for training: draw number n is the same patch whoever draws it, in whatever order.

Each draw takes its volume from a permutation keyed by the epoch and all its randomness from a stream keyed by
n. So workers, batch order and a stop in the middle change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import SpatialPad
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, RandSpatialCropd
from monai.transforms.intensity.dictionary import (
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from monai.transforms.transform import Randomizable
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medmim.data.manifest import Volume
from medmim.data.plan import Plan
from medmim.data.prepare import Prepared
from medmim.data.resized_crop import RandomResizedCrop
from medmim.data.workers import Notes, leave_signals_to_the_trainer
from medmim.randomness import numpy_stream, stream_seed
from medmim.shapes import Size

Sample = dict[str, Any]


class Draws(Dataset[Sample]):
    """Draws 0 … total - 1 from volumes.

    Args:
        volumes: what is drawn from; each once an epoch.
        prepare: from a manifest row to tensors.
        transform: from prepared tensors to a patch; reseeded for every draw.
        labelled: give labels with the images.
        seed: of the run.
        total: number of draws.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        prepare: Callable[[Volume], Prepared],
        transform: Compose,
        *,
        labelled: bool,
        seed: int,
        total: int,
    ) -> None:
        self.volumes = volumes
        self.prepare = prepare
        self.transform = transform
        self.labelled = labelled
        self.seed = seed
        self.total = total
        self.notes = Notes()

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, number: int) -> Sample:
        """Return the patch of one draw: `image`, `label` if asked for, and the draw's number."""
        self.notes.note(number)
        prepared = self.prepare(self.volume_of(number))
        sample: Sample = {"image": prepared.image, "slice_axis": prepared.slice_axis}
        if self.labelled:
            sample["label"] = prepared.label
        self.transform.set_random_state(seed=stream_seed(self.seed, "draw", number) % 2**32)
        patch = self.transform(sample)
        patch = patch[0] if isinstance(patch, list) else patch  # crops by label come as a list of one
        keys = ("image", "label") if self.labelled else ("image",)
        return {key: _plain(patch[key]) for key in keys} | {"draw": number}

    def volume_of(self, number: int) -> Volume:
        """Return the volume that a draw is taken from."""
        epoch, place = divmod(number, len(self.volumes))
        order = numpy_stream(self.seed, "order", epoch).permutation(len(self.volumes))
        return self.volumes[int(order[place])]


def batches(
    draws: Draws, *, batch_size: int, workers: int, start: int = 0, share: tuple[int, int] = (0, 1)
) -> DataLoader[Sample]:
    """Return the batches of `draws` in order, from draw `start` on; the length is that of all of them.

    Args:
        draws: what is drawn.
        batch_size: patches of a batch.
        workers: processes that prepare them.
        start: the first draw, of all processes.
        share: this process's number and how many there are; they take batches in turn.
    """
    return DataLoader(
        draws,
        batch_size=batch_size,
        sampler=_InTurn(start, len(draws), batch_size, share),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
        generator=torch.Generator().manual_seed(draws.seed),
    )


class _InTurn(Sampler[int]):
    """One process's draws from `start` on; the length counts those before, as Lightning does."""

    def __init__(self, start: int, total: int, batch: int, share: tuple[int, int]) -> None:
        self.start = start
        self.total = total
        self.batch = batch
        self.process, self.processes = share

    def __iter__(self) -> Iterator[int]:
        first = self.start + self.process * self.batch
        for begin in range(first, self.total, self.batch * self.processes):
            yield from range(begin, min(begin + self.batch, self.total))

    def __len__(self) -> int:
        return self.total // self.processes


def pretraining_patches(plan: Plan) -> Compose:
    """Random crops and flips of images, mild intensity changes."""
    return Compose(
        [
            *_slices(plan, keys=["image"], foreground=0.0),
            _Pad(["image"], plan.size),
            RandSpatialCropd(["image"], roi_size=plan.size, random_size=False),
            *(RandFlipd(["image"], prob=0.5, spatial_axis=axis) for axis in range(plan.dims)),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )


def resized_parts(plan: Plan) -> Compose:
    """Random parts of 0.67 to 1 of an image, scaled to one size, left and right exchanged: SparK's draws."""
    return Compose(
        [
            *_slices(plan, keys=["image"], foreground=0.0),
            RandomResizedCrop(plan.size, scale=(0.67, 1.0)),
            _FlipLeftRight(["image"]),
        ]
    )


def segmentation_patches(plan: Plan, *, foreground: float) -> Compose:
    """Random crops, a share of them around foreground, with affine and intensity augmentation.

    Only left and right are exchanged: front and back of a body differ, and labels may depend on it.
    """
    keys = ["image", "label"]
    return Compose(
        [
            *_slices(plan, keys=keys, foreground=foreground),
            _Pad(keys, plan.size),
            _crop(keys, plan.size, foreground=foreground),
            _FlipLeftRight(keys),
            RandAffined(
                keys,
                prob=0.5,
                rotate_range=[0.25] * (1 if plan.dims == 2 else 3),
                scale_range=[0.15] * plan.dims,
                translate_range=[0.05 * length for length in plan.size],
                mode=["bilinear", "nearest"],
                padding_mode="border",
            ),
            RandGaussianNoised("image", prob=0.15, std=0.1),
            RandGaussianSmoothd(
                "image", prob=0.15, sigma_x=(0.4, 0.9), sigma_y=(0.4, 0.9), sigma_z=(0.4, 0.9)
            ),
            RandScaleIntensityd("image", factors=0.2, prob=0.5),
            RandShiftIntensityd("image", offsets=0.2, prob=0.5),
        ]
    )


def _slices(plan: Plan, *, keys: list[str], foreground: float) -> list[Any]:
    return [_PickSlice(keys, foreground=foreground)] if plan.dims == 2 else []


def _crop(keys: list[str], size: Size, *, foreground: float) -> Any:
    if foreground == 0:
        return RandSpatialCropd(keys, roi_size=size, random_size=False)
    return RandCropByPosNegLabeld(
        keys, "label", spatial_size=size, pos=foreground, neg=1 - foreground, num_samples=1
    )


class _PickSlice(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Take one slice across the slice axis; with probability `foreground` one that holds foreground."""

    def __init__(self, keys: list[str], *, foreground: float) -> None:
        self.keys = keys
        self.foreground = foreground

    def randomize(self, data: Sample) -> int:
        """Choose a slice number."""
        axis = data["slice_axis"] + 1
        candidates = np.arange(data["image"].shape[axis])
        if self.foreground and self.R.random() < self.foreground:
            others = [other for other in range(4) if other != axis]
            holding = np.flatnonzero(np.asarray(data["label"].numpy().any(axis=tuple(others))))
            candidates = holding if len(holding) else candidates
        return int(self.R.choice(candidates))

    def __call__(self, data: Sample) -> Sample:
        chosen = self.randomize(data)
        axis = data["slice_axis"] + 1
        picked = {key: data[key].select(axis, chosen) for key in self.keys}
        # Right-left is the first remaining axis, unless slices are cut across it (sagittal).
        return {**picked, "left_right": None if data["slice_axis"] == 0 else 0}


class _FlipLeftRight(Randomizable):  # type: ignore[misc]  # MONAI is not typed
    """Exchange left and right in half of the draws."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def randomize(self, data: object = None) -> bool:
        """Choose whether to flip."""
        return bool(self.R.random() < 0.5)

    def __call__(self, data: Sample) -> Sample:
        axis = data.get("left_right", 0)
        if not self.randomize() or axis is None:
            return data
        return {**data, **{key: data[key].flip(axis + 1) for key in self.keys}}


class _Pad:
    """Pad to at least `size`: images with their darkest value, labels with background."""

    def __init__(self, keys: list[str], size: Size) -> None:
        self.keys = keys
        self.size = size

    def __call__(self, data: Sample) -> Sample:
        padded = dict(data)
        for key in self.keys:
            value = float(data[key].min()) if key == "image" else 0
            padded[key] = SpatialPad(self.size, mode="constant", value=value)(data[key])
        return padded


def _plain(value: Tensor) -> Tensor:
    """Return a tensor without MONAI's metadata, in memory of its own."""
    tensor: Tensor = value.as_tensor() if hasattr(value, "as_tensor") else value
    return tensor.clone(memory_format=torch.contiguous_format)
