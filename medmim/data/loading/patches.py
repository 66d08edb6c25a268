"""Random patches for training: draw number n is the same patch whoever draws it, in whatever order.

Each draw takes its volume from a permutation keyed by the epoch and all its randomness from a stream keyed by
n. So workers, batch order and a stop in the middle change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd
from monai.transforms.intensity.dictionary import (
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.foreground_crop import CropAroundLabel
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.random_resized_crop import RandomResizedCrop
from medmim.data.loading.transforms import PLACES, FlipLeftRight, PadTo, PickSlice, Sample
from medmim.data.loading.worker_failures import WorkerLog, leave_signals_to_the_trainer
from medmim.randomness import numpy_stream, stream_seed
from medmim.shapes import Size

Targets = Callable[[VolumeRecord, PreprocessedVolume], Mapping[str, Any]]


class PatchDataset(Dataset[Sample]):
    """Draws 0, 1, 2 … from volumes, without end.

    Args:
        volumes: what is drawn from; each once an epoch.
        prepare: from a manifest row to tensors.
        transform: from prepared tensors to a patch; reseeded for every draw.
        labelled: give labels with the images.
        seed: of the run.
        targets: what a task adds to a sample; it comes back from the transform under the same names.
        weights: how often each volume is drawn, relative to the others; None: each once an epoch.
    """

    def __init__(
        self,
        volumes: Sequence[VolumeRecord],
        prepare: Callable[[VolumeRecord], PreprocessedVolume],
        transform: Compose,
        *,
        labelled: bool,
        seed: int,
        targets: Targets | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.volumes = volumes
        self.prepare = prepare
        self.transform = transform
        self.labelled = labelled
        self.seed = seed
        self.targets = targets
        self.weights = weights
        self.notes = WorkerLog()

    def __getitem__(self, number: int) -> Sample:
        """Return the patch of one draw: `image`, `label` if asked for, and the draw's number."""
        self.notes.note(number)
        volume = self.volume_of(number)
        prepared = self.prepare(volume)
        sample: Sample = {"image": prepared.image, "slice_axis": prepared.slice_axis}
        if self.labelled:
            sample |= {"label": prepared.label, PLACES: prepared.places}
        if self.targets:
            sample |= self.targets(volume, prepared)
        keys = sample.keys() - {"slice_axis", PLACES}
        self.transform.set_random_state(seed=stream_seed(self.seed, "draw", number) % 2**32)
        patch = self.transform(sample)
        return {key: _plain(patch[key]) for key in sorted(keys)} | {"draw": number}

    def volume_of(self, number: int) -> VolumeRecord:
        """Return the volume that a draw is taken from."""
        epoch, place = divmod(number, len(self.volumes))
        return self.volumes[int(self._order(epoch)[place])]

    def _order(self, epoch: int) -> np.ndarray:
        """Return the places of an epoch's volumes; with weights some come twice and others not at all."""
        stream, count = numpy_stream(self.seed, "order", epoch), len(self.volumes)
        if self.weights is None:
            return stream.permutation(count)
        share = np.asarray(self.weights, dtype=float)
        return stream.choice(count, size=count, p=share / share.sum())


@dataclass(frozen=True)
class SampleRange:
    """Which draws a training takes.

    Attributes:
        stop: the first that it does not take.
        start: the first that it takes: not 0 when it is resumed.
        passed: how many each process took before; they need not be a share of `start`, if the processes were
            of another number.
    """

    stop: int
    start: int = 0
    passed: int = 0


def batches(
    draws: PatchDataset, part: SampleRange, *, batch_size: int, workers: int, share: tuple[int, int] = (0, 1)
) -> DataLoader[Sample]:
    """Return the batches of a part of `draws`, in order; its length counts those before, as Lightning does.

    Args:
        draws: what is drawn.
        part: which draws, of all processes.
        batch_size: patches of a batch.
        workers: processes that prepare them.
        share: this process's number and how many there are; they take batches in turn.
    """
    return DataLoader(
        draws,
        batch_size=batch_size,
        sampler=_StridedSampler(part, batch_size, share),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
        generator=torch.Generator().manual_seed(draws.seed),
    )


class _StridedSampler(Sampler[int]):
    """One process's draws of a part."""

    def __init__(self, part: SampleRange, batch: int, share: tuple[int, int]) -> None:
        self.part = part
        self.batch = batch
        self.process, self.processes = share

    def __iter__(self) -> Iterator[int]:
        first = self.part.start + self.process * self.batch
        for begin in range(first, self.part.stop, self.batch * self.processes):
            yield from range(begin, min(begin + self.batch, self.part.stop))

    def __len__(self) -> int:
        return self.part.passed + (self.part.stop - self.part.start) // self.processes


def pretraining_patches(plan: PreprocessingPlan, *, labelled: bool = False) -> Compose:
    """Random crops and flips of images (and their labels), mild intensity changes."""
    keys = ["image", "label"] if labelled else ["image"]
    return Compose(
        [
            *_slices(plan, keys=keys, foreground=0.0),
            PadTo(keys, plan.size),
            RandSpatialCropd(keys, roi_size=plan.size, random_size=False),
            *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(plan.dims)),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )


def resized_parts(plan: PreprocessingPlan) -> Compose:
    """Random parts of 0.67 to 1 of an image, scaled to one size, left and right exchanged: SparK's draws."""
    return Compose(
        [
            *_slices(plan, keys=["image"], foreground=0.0),
            RandomResizedCrop(plan.size, scale=(0.67, 1.0)),
            FlipLeftRight(["image"]),
        ]
    )


def segmentation_patches(plan: PreprocessingPlan, *, foreground: float) -> Compose:
    """Random crops, a share of them around foreground, with affine and intensity augmentation.

    Only left and right are exchanged: front and back of a body differ, and labels may depend on it.
    """
    keys = ["image", "label"]
    return Compose(
        [
            *_slices(plan, keys=keys, foreground=foreground),
            PadTo(keys, plan.size),
            _crop(keys, plan.size, foreground=foreground),
            FlipLeftRight(keys),
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


def _slices(plan: PreprocessingPlan, *, keys: list[str], foreground: float) -> list[Any]:
    return [PickSlice(keys, foreground=foreground)] if plan.dims == 2 else []


def _crop(keys: list[str], size: Size, *, foreground: float) -> Any:
    if foreground == 0:
        return RandSpatialCropd(keys, roi_size=size, random_size=False)
    return CropAroundLabel(keys, size, foreground=foreground)


def _plain(value: Tensor) -> Tensor:
    """Return a tensor without MONAI's metadata, in memory of its own."""
    tensor: Tensor = value.as_tensor() if hasattr(value, "as_tensor") else value
    return tensor.clone(memory_format=torch.contiguous_format)
