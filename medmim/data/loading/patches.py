"""Random training patches: sample n is the same patch in any process and any order.

The volume of sample n comes from a permutation keyed by the epoch, and all randomness from a stream keyed by
n. The number of workers, the batch order and interruptions change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd
from monai.transforms.intensity.dictionary import RandScaleIntensityd, RandShiftIntensityd
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.loading.affine_crop import RandAffineCrop
from medmim.data.loading.augmentation import PRESETS, Augmentation, intensity_changes
from medmim.data.loading.mirroring import RandMirror
from medmim.data.loading.preprocess import PreprocessedVolume
from medmim.data.loading.preprocessing_plan import PreprocessingPlan
from medmim.data.loading.transforms import PLACES, PadTo, PickSlice, RandomResizedCrop, Sample
from medmim.data.loading.worker_failures import WorkerLog, leave_signals_to_the_trainer
from medmim.randomness import numpy_stream, stream_seed

CLASSIFICATION_AUGMENTATION = PRESETS["light"].model_copy(
    update={"rotation": 0.8, "scaling": 0.8, "gamma": 0.3, "blur": 0.0, "moving": 0.8, "move": 0.08}
)
Targets = Callable[[VolumeRecord, PreprocessedVolume], Mapping[str, Any]]


class PatchDataset(Dataset[Sample]):
    """An endless dataset of patches, with samples 0, 1, 2, ….

    Args:
        volumes: source volumes, each used once per epoch.
        transform: makes a patch from a preprocessed volume; reseeded for every sample.
        targets: returns additional entries of a sample, which the transform must keep.
        weights: relative frequency of each volume; None: each once per epoch.
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
        """Return a patch: `image`, `label` if requested, and the sample number as `draw`."""
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
        """Return the volume of a sample."""
        epoch, place = divmod(number, len(self.volumes))
        return self.volumes[int(self._order(epoch)[place])]

    def _order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch's volumes; with weights, drawn with replacement."""
        stream, count = numpy_stream(self.seed, "order", epoch), len(self.volumes)
        if self.weights is None:
            return stream.permutation(count)
        share = np.asarray(self.weights, dtype=float)
        return stream.choice(count, size=count, p=share / share.sum())


@dataclass(frozen=True)
class SampleRange:
    """The samples of a training run.

    Attributes:
        stop: end of the range (exclusive).
        start: first sample; not 0 for a resumed run.
        passed: samples that each process loaded before; not necessarily an equal share of `start`, since the
            number of processes may have changed.
    """

    stop: int
    start: int = 0
    passed: int = 0


def batches(
    draws: PatchDataset, part: SampleRange, *, batch_size: int, workers: int, share: tuple[int, int] = (0, 1)
) -> DataLoader[Sample]:
    """Return the batches of a sample range in order; the length includes earlier batches (for Lightning).

    Args:
        draws: the dataset.
        part: samples of all processes.
        workers: data loader processes.
        share: rank of this process and number of processes; batches are assigned in turn.
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
    """The samples of one process."""

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
    """Return random crops of images (and labels), mirrored, with mild intensity changes."""
    keys = ["image", "label"] if labelled else ["image"]
    return Compose(
        [
            *_slices(plan, keys, foreground=0.0),
            PadTo(keys, plan.size),
            RandSpatialCropd(keys, roi_size=plan.size, random_size=False),
            RandMirror(keys, plan.mirror_axes),
            RandScaleIntensityd("image", factors=0.1, prob=0.5),
            RandShiftIntensityd("image", offsets=0.1, prob=0.5),
        ]
    )


def resized_parts(plan: PreprocessingPlan) -> Compose:
    """Return random crops of 0.67 to 1 of an image, resized and mirrored: the augmentation of SparK."""
    return Compose(
        [
            *_slices(plan, ["image"], foreground=0.0),
            RandomResizedCrop(plan.size, scale=(0.67, 1.0)),
            RandMirror(["image"], plan.mirror_axes),
        ]
    )


def segmentation_patches(
    plan: PreprocessingPlan, *, foreground: float, augmentation: Augmentation = PRESETS["nnunet"]
) -> Compose:
    """Return random crops, a share of them around foreground, mirrored and augmented.

    Args:
        foreground: share of crops around a labelled voxel, each class equally often.
    """
    keys = ["image", "label"]
    return Compose(
        [
            *_slices(plan, keys, foreground=foreground),
            PadTo(keys, plan.size),
            RandAffineCrop(keys, plan.size, foreground=foreground or None, augmentation=augmentation),
            RandMirror(keys, plan.mirror_axes),
            *intensity_changes(augmentation, plan.dims),
        ]
    )


def _slices(plan: PreprocessingPlan, keys: list[str], *, foreground: float) -> list[Any]:
    return [PickSlice(keys, foreground=foreground)] if plan.dims == 2 else []


def _plain(value: Tensor) -> Tensor:
    """Return a contiguous copy without MONAI's metadata."""
    tensor: Tensor = value.as_tensor() if hasattr(value, "as_tensor") else value
    return tensor.clone(memory_format=torch.contiguous_format)


def classification_patches(
    plan: PreprocessingPlan, augmentation: Augmentation = CLASSIFICATION_AUGMENTATION
) -> Compose:
    """Return samples for classification: the image or, in 2D, a random slice of it, mirrored and augmented.

    With the field of view `whole`, images already have the size of the plan and are not cropped, because the
    class may depend on any part of the image.
    """
    keys = ["image"]
    return Compose(
        [
            *([PickSlice(keys, foreground=0.0)] if plan.dims == 2 else []),
            PadTo(keys, plan.size),
            RandAffineCrop(keys, plan.size, foreground=None, augmentation=augmentation),
            RandMirror(keys, plan.mirror_axes),
            *intensity_changes(augmentation, plan.dims),
        ]
    )
