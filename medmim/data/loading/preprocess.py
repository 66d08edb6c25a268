"""Preprocessing of a volume to a normalised tensor in RAS order, with a bounded cache in memory."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.spatial.dictionary import Orientationd, Resized, Spacingd
from torch import Tensor

from medmim import files
from medmim.data.dataset.boxes import Boxes, map_boxes, stored_boxes
from medmim.data.dataset.channels import ChannelStack, channels_of, missing_channels
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.geometry import corner_distance
from medmim.data.loading.disk_cache import DIGITS, DiskCache
from medmim.data.loading.foreground_sampling import IGNORE, labelled_places
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, slice_axis, target_spacing
from medmim.data.loading.recorded_files import read_recorded
from medmim.data.loading.transforms import PLACES
from medmim.errors import DataError

_log = logging.getLogger(__name__)
_SAME_GRID = 0.01  # tolerance in voxels for the grids of channels
_VERSION = 4  # of `preprocess`; a new version invalidates the disk cache


@dataclass(frozen=True, eq=False)
class PreprocessedVolume:
    """A preprocessed volume.

    Attributes:
        image: (channels, x, y, z), float32, axes towards right, anterior, superior.
        label: class indices, (1, x, y, z), uint8 (int32 for larger values), or None.
        affine: voxel → world in mm, (4, 4).
        slice_axis: 0, 1 or 2: the axis of largest spacing in the file, across which slices are cut.
        stored_affine: voxel → world in mm of the file, (4, 4).
        boxes: boxes of findings, in voxels of `image`.
        places: labelled voxels, see `labelled_places`; None without a label.
    """

    image: Tensor
    label: Tensor | None
    affine: np.ndarray
    slice_axis: int
    stored_affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    boxes: Boxes = field(default_factory=lambda: np.zeros((0, 6)))
    places: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        tensors = (self.image, self.label, self.places)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    @property
    def background(self) -> float:
        """The value for padding: the minimum of the image."""
        return float(self.image.min())


class VolumeLoader:
    """Preprocess volumes of a dataset on request and keep the most recently used ones.

    Args:
        plan: preprocessing; the orientation is always RAS.
        cache_gb: memory for preprocessed volumes in each process.
        disk: cache on disk shared by all processes.
    """

    def __init__(
        self, root: Path, plan: PreprocessingPlan, *, cache_gb: float, disk: DiskCache | None = None
    ) -> None:
        self.root = root
        self.plan = plan
        self.disk = disk
        self._limit = int(cache_gb * 1e9)
        self._kept: OrderedDict[str, PreprocessedVolume] = OrderedDict()
        self._bytes = 0

    def __call__(self, volume: VolumeRecord) -> PreprocessedVolume:
        """Return a preprocessed volume, from the cache if possible.

        Raises:
            DataError: if a file of the dataset is missing or damaged.
        """
        if volume.id in self._kept:
            self._kept.move_to_end(volume.id)
            return self._kept[volume.id]
        prepared = self._shared(volume, self.disk) if self.disk else preprocess(self.root, volume, self.plan)
        self._kept[volume.id] = prepared
        self._bytes += prepared.bytes
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        return prepared

    def _shared(self, volume: VolumeRecord, disk: DiskCache) -> PreprocessedVolume:
        """Return a volume from the disk cache, and add it if it is missing."""
        key = _key(volume, self.plan)
        known = disk.get(key)
        if known is None:
            made = preprocess(self.root, volume, self.plan)
            try:
                known = disk.put(key, _tensors(made))
            except files.WriteError as error:
                _log.warning(
                    "preprocessed volumes are not cached: %s; free disk space, or --set cache_disk_gb=0",
                    error.strerror,
                )
                self.disk = None
                return made
            if known is None:  # it exceeds the limit
                return made
        return _prepared(known, volume)


def _key(volume: VolumeRecord, plan: PreprocessingPlan) -> str:
    """Return the cache key: a hash of the source files, the preprocessing and its version."""
    label = volume.label_sha256 if volume.label else None
    whole = plan.size if plan.view == "whole" else None
    made_of = [
        [channel.sha256 for channel in channels_of(volume)],
        *filter(None, [missing_channels(volume)]),
        label,
        [plan.normalisation.rule_for(one).model_dump() for one in _modalities(volume, plan)],
        volume.modality,
        plan.dims,
        target_spacing(volume, plan),
        whole,
        [plan.label_codes, plan.ignore_label, *([plan.label_classes] if plan.label_classes else [])],
        _VERSION,
    ]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:DIGITS]


def _tensors(prepared: PreprocessedVolume) -> dict[str, Tensor]:
    named = {"label": prepared.label, PLACES: prepared.places}
    label = {name: tensor for name, tensor in named.items() if tensor is not None}
    return {
        "image": prepared.image,
        "affine": torch.from_numpy(prepared.affine),
        "stored_affine": torch.from_numpy(prepared.stored_affine),
        "slice_axis": torch.tensor(prepared.slice_axis),
    } | label


def _prepared(tensors: Mapping[str, Tensor], volume: VolumeRecord) -> PreprocessedVolume:
    """Return a volume from its tensors; boxes come from the row, since they may have been clipped."""
    affine, stored = tensors["affine"].numpy(), tensors["stored_affine"].numpy()
    boxes = map_boxes(stored_boxes(volume), stored, affine)
    label, places, axis = tensors.get("label"), tensors.get(PLACES), int(tensors["slice_axis"])
    return PreprocessedVolume(tensors["image"], label, affine, axis, stored, boxes, places)


def preprocess(root: Path, volume: VolumeRecord, plan: PreprocessingPlan) -> PreprocessedVolume:
    """Load, reorient, resample or resize, and normalise one volume as the plan specifies."""
    read = {"image": _image(root, volume)}
    if volume.label:
        read["label"] = _read(root / volume.label, volume.label_sha256, volume)
        if read["label"].shape[1:] != read["image"].shape[1:]:
            raise DataError(
                f"volume {volume.id}: label and image have different shapes; run `medmim ingest` again",
                reason="damaged_dataset",
            )
    stored = np.asarray(read["image"].affine, dtype=np.float64)
    loaded = _pipeline(volume, plan)(read)
    image: MetaTensor = loaded["image"]
    affine = np.asarray(image.affine, dtype=np.float64)
    label = class_indices(loaded["label"].as_tensor(), plan) if volume.label else None
    normalised = plan.normalisation(image.as_tensor(), _modalities(volume, plan))
    if isinstance(volume, ChannelStack) and volume.missing:
        normalised = torch.zeros(len(volume.missing) + len(normalised), *normalised.shape[1:]).index_copy(
            0, torch.tensor(volume.places), normalised
        )
    return PreprocessedVolume(
        image=normalised.contiguous(),
        label=label,
        affine=affine,
        slice_axis=int(loaded["slice_axis"]),
        stored_affine=stored,
        boxes=map_boxes(stored_boxes(volume), stored, affine),
        places=None if label is None else labelled_places(label),
    )


def _image(root: Path, volume: VolumeRecord) -> MetaTensor:
    """Return all channels of a case, which must have the same grid."""
    first, *others = (_read(root / channel.image, channel.sha256, volume) for channel in channels_of(volume))
    for other in others:
        off = corner_distance(first.shape[1:], np.asarray(first.affine), np.asarray(other.affine))
        if other.shape != first.shape or off > _SAME_GRID * float(first.pixdim.min()):
            raise DataError(
                f"volume {volume.id}: its channels have different grids; expected co-registered images: "
                "resample them to one grid before `medmim ingest`",
                reason="channels_differ",
            )
    return MetaTensor(torch.cat([one.as_tensor() for one in (first, *others)]), affine=first.affine)


def _modalities(volume: VolumeRecord, plan: PreprocessingPlan) -> list[str]:
    """Return the modality of each channel; earlier versions used that of the first one."""
    channels = channels_of(volume)
    return [volume.modality if plan.normalisation.legacy else one.modality for one in channels]


def class_indices(label: Tensor, plan: PreprocessingPlan) -> Tensor:
    """Map values of a label file to class indices; unknown values become 0, `ignore_label` becomes `IGNORE`.

    Without codes and classes in the plan, values are kept: as uint8, or int32 where they exceed 255.
    """
    pairs = plan.label_classes
    if pairs is None and plan.label_codes is None:
        return label.to(torch.uint8 if label.max() <= torch.iinfo(torch.uint8).max else torch.int32)
    if pairs is None:
        pairs = tuple((code, number) for number, code in enumerate(plan.label_codes or (), start=1))
    class_of = dict(pairs) | ({} if plan.ignore_label is None else {plan.ignore_label: IGNORE})
    values = np.rint(label.numpy()).astype(np.int64)
    known = np.array(sorted({0: 0, **class_of}.items()), dtype=np.int64)
    index = np.searchsorted(known[:, 0], values).clip(max=len(known) - 1)
    classes = np.where(known[index, 0] == values, known[index, 1], 0)
    return torch.from_numpy(classes.astype(np.uint8))


def _read(path: Path, sha256: str | None, volume: VolumeRecord) -> MetaTensor:
    try:
        image = read_recorded(path, sha256)
    except (DataError, OSError) as error:
        raise DataError(
            f"volume {volume.id}: {error}; or run `medmim ingest` again", reason="damaged_dataset"
        ) from error
    values = torch.from_numpy(np.ascontiguousarray(image.array.astype(np.float32)))
    return MetaTensor(values.unsqueeze(0), affine=torch.as_tensor(image.affine))


def _pipeline(volume: VolumeRecord, plan: PreprocessingPlan) -> Compose:
    keys = ["image", "label"] if volume.label else ["image"]
    steps: list[Any] = [Orientationd(keys, axcodes="RAS", labels=None), _note_slice_axis]
    if (spacing := target_spacing(volume, plan)) is not None:
        steps.append(_Respace(keys, spacing, plan.dims))
    if plan.view == "whole":
        steps.append(_Fit(keys, plan))
    return Compose(steps)


def _note_slice_axis(data: Mapping[str, Any]) -> dict[str, Any]:
    """Determine the slice axis before resampling; equal spacings mean axial slices."""
    return {**data, "slice_axis": slice_axis(np.asarray(data["image"].pixdim))}


class _Respace:
    """Resample the image (linear) and the label (nearest neighbour), in 2D within slices only."""

    def __init__(self, keys: list[str], spacing_mm: Sequence[float], dims: int) -> None:
        self.keys = keys
        self.spacing_mm = spacing_mm
        self.dims = dims

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        spacing = list(self.spacing_mm)
        if self.dims == 2:
            spacing[data["slice_axis"]] = -1.0  # MONAI: keep the spacing
        modes = ["bilinear" if key == "image" else "nearest" for key in self.keys]
        resample = Spacingd(self.keys, pixdim=spacing, mode=modes, padding_mode="border")
        resampled: dict[str, Any] = resample(data)
        return resampled


class _Fit:
    """Resize the image (and its label) to fit the size of the plan.

    Slices keep their aspect ratio; volumes, whose spacings differ anyway, are resized axis by axis.
    """

    def __init__(self, keys: list[str], plan: PreprocessingPlan) -> None:
        self.keys = keys
        self.plan = plan

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        shape = list(data["image"].shape[1:])
        seen = [axis for axis in range(3) if self.plan.dims == 3 or axis != data["slice_axis"]]
        factors = [size / shape[axis] for size, axis in zip(self.plan.size, seen, strict=True)]
        if self.plan.dims == 2:
            factors = [min(factors)] * 2
        for factor, axis in zip(factors, seen, strict=True):
            shape[axis] = max(1, round(factor * shape[axis]))
        # average when downsampling, interpolate when upsampling
        image = "area" if min(factors) < 1 else "trilinear"
        modes = [image if key == "image" else "nearest-exact" for key in self.keys]
        scaled: dict[str, Any] = Resized(self.keys, spatial_size=shape, mode=modes)(data)
        return scaled
