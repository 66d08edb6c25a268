"""From a volume in a dataset folder to a normalised tensor in RAS order, kept in a bounded memory."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    NormalizeIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from monai.transforms.spatial.dictionary import Orientationd, Resized, Spacingd
from torch import Tensor

from medmim import files
from medmim.data.dataset.boxes import Boxes, map_boxes, stored_boxes
from medmim.data.dataset.channels import channels_of
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.geometry import corner_distance
from medmim.data.formats.nifti import read_image
from medmim.data.loading.disk_cache import DIGITS, DiskCache
from medmim.data.loading.foreground_crop import labelled_places
from medmim.data.loading.preprocessing_plan import PreprocessingPlan, slice_axis
from medmim.data.loading.transforms import PLACES
from medmim.errors import DataError

_log = logging.getLogger(__name__)
_CT_RANGE_HU = (-1000.0, 1000.0)
_SAME_GRID = 0.01  # voxels by which the grids of channels may differ
_VERSION = 3  # of what `preprocess` does; another number, and no prepared volume on disk is used again


@dataclass(frozen=True, eq=False)
class PreprocessedVolume:
    """A volume as networks see it.

    Attributes:
        image: (channels, x, y, z), float32, axes towards right, anterior, superior.
        label: (1, x, y, z), uint8 (int32 where numbers are larger), or None.
        affine: voxel → world in mm, (4, 4).
        slice_axis: 0, 1 or 2: the axis of largest spacing in the file, across which 2D slices are cut.
        stored_affine: voxel → world in mm of the file, (4, 4).
        boxes: of the volume's findings, in voxels of `image`.
        places: voxels that have a label, as `labelled_places` chooses them; None without a label.
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
        """Memory that the tensors take."""
        tensors = (self.image, self.label, self.places)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    @property
    def background(self) -> float:
        """The value to pad with: the darkest of the volume."""
        return float(self.image.min())


class VolumeLoader:
    """Prepare volumes of a dataset on request and keep the most recently used ones.

    Args:
        root: dataset folder.
        plan: orientation is always RAS; spacing comes from here.
        cache_gb: memory for prepared volumes, for each process.
        disk: prepared volumes on disk, which all processes share; they take no memory of their own.
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
        """Return a prepared volume, from memory when it is there.

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
        """Return a volume as it lies on disk, where it is put when it is not there yet."""
        key = _key(volume, self.plan)
        known = disk.get(key)
        if known is None:
            made = preprocess(self.root, volume, self.plan)
            try:
                known = disk.put(key, _tensors(made))
            except files.WriteError as error:
                _log.warning(
                    "prepared volumes are not kept: %s; free the disk, or --set cache_disk_gb=0",
                    error.strerror,
                )
                self.disk = None
                return made
            if known is None:  # there is no room for it
                return made
        return _prepared(known, volume)


def _key(volume: VolumeRecord, plan: PreprocessingPlan) -> str:
    """Return what a prepared volume is found by: its files, how they are prepared, and by which version."""
    label = volume.label_sha256 if volume.label else None
    whole = plan.size if plan.view == "whole" else None
    made_of = [
        [channel.sha256 for channel in channels_of(volume)],
        label,
        volume.modality,
        plan.dims,
        plan.spacing_mm,
        whole,
        _CT_RANGE_HU,
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
    """Return what `_tensors` was given; boxes are those of the row, which may have been clipped since."""
    affine, stored = tensors["affine"].numpy(), tensors["stored_affine"].numpy()
    boxes = map_boxes(stored_boxes(volume), stored, affine)
    label, places, axis = tensors.get("label"), tensors.get(PLACES), int(tensors["slice_axis"])
    return PreprocessedVolume(tensors["image"], label, affine, axis, stored, boxes, places)


def preprocess(root: Path, volume: VolumeRecord, plan: PreprocessingPlan) -> PreprocessedVolume:
    """Load, orient, resample or scale where the plan says so, clip outliers and normalise one volume."""
    read = {"image": _image(root, volume)}
    if volume.label:
        read["label"] = _read(root / volume.label, volume)
        if read["label"].shape[1:] != read["image"].shape[1:]:
            raise DataError(
                f"volume {volume.id}: label and image have different shapes; run `medmim ingest` again",
                reason="damaged_dataset",
            )
    stored = np.asarray(read["image"].affine, dtype=np.float64)
    loaded = _pipeline(volume, plan)(read)
    image: MetaTensor = loaded["image"]
    affine = np.asarray(image.affine, dtype=np.float64)
    label = _numbers(loaded["label"].as_tensor()) if volume.label else None
    return PreprocessedVolume(
        image=image.as_tensor().float().contiguous(),
        label=label,
        affine=affine,
        slice_axis=int(loaded["slice_axis"]),
        stored_affine=stored,
        boxes=map_boxes(stored_boxes(volume), stored, affine),
        places=None if label is None else labelled_places(label),
    )


def _image(root: Path, volume: VolumeRecord) -> MetaTensor:
    """Return all channels of a case; they must lie on one grid."""
    first, *others = (_read(root / channel.image, volume) for channel in channels_of(volume))
    for other in others:
        off = corner_distance(first.shape[1:], np.asarray(first.affine), np.asarray(other.affine))
        if other.shape != first.shape or off > _SAME_GRID * float(first.pixdim.min()):
            raise DataError(
                f"volume {volume.id}: its channels lie on different grids; expected co-registered images: "
                "resample them to one of them before `medmim ingest`",
                reason="channels_differ",
            )
    return MetaTensor(torch.cat([one.as_tensor() for one in (first, *others)]), affine=first.affine)


def _numbers(label: Tensor) -> Tensor:
    """Return class numbers in a byte each, or in four where one of them is larger than a byte holds."""
    return label.to(torch.uint8 if label.max() <= torch.iinfo(torch.uint8).max else torch.int32)


def _read(path: Path, volume: VolumeRecord) -> MetaTensor:
    try:
        image = read_image(path)
    except (DataError, OSError) as error:
        raise DataError(
            f"volume {volume.id}: {error}; or run `medmim ingest` again", reason="damaged_dataset"
        ) from error
    values = torch.from_numpy(np.ascontiguousarray(image.array.astype(np.float32)))
    return MetaTensor(values.unsqueeze(0), affine=torch.as_tensor(image.affine))


def _pipeline(volume: VolumeRecord, plan: PreprocessingPlan) -> Compose:
    keys = ["image", "label"] if volume.label else ["image"]
    steps: list[Any] = [
        Orientationd(keys, axcodes="RAS", labels=None),
        _note_slice_axis,
    ]
    if plan.spacing_mm is not None:
        steps.append(_Respace(keys, plan))
    if plan.view == "whole":
        steps.append(_Fit(keys, plan))
    if volume.modality == "CT":
        low, high = _CT_RANGE_HU
        steps.append(ScaleIntensityRanged("image", low, high, low, high, clip=True))
    else:
        steps.append(
            ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True, channel_wise=True)
        )
    steps.append(NormalizeIntensityd("image", channel_wise=True))
    return Compose(steps)


def _note_slice_axis(data: Mapping[str, Any]) -> dict[str, Any]:
    """Find the slice axis before resampling hides it; equal spacings mean axial slices."""
    return {**data, "slice_axis": slice_axis(np.asarray(data["image"].pixdim))}


class _Respace:
    """Resample image (linear) and label (nearest), in 2D within slices only."""

    def __init__(self, keys: list[str], plan: PreprocessingPlan) -> None:
        self.keys = keys
        self.plan = plan

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        spacing = list(self.plan.spacing_mm or ())
        if self.plan.dims == 2:
            spacing[data["slice_axis"]] = -1.0  # MONAI: keep what it is
        modes = ["bilinear" if key == "image" else "nearest" for key in self.keys]
        resampled: dict[str, Any] = Spacingd(self.keys, pixdim=spacing, mode=modes, padding_mode="border")(
            data
        )
        return resampled


class _Fit:
    """Scale the whole image (and its label) to fit the plan's size.

    Slices keep their shape, so that one side may stay shorter; volumes, whose axes differ in spacing anyway,
    are scaled axis by axis.
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
        # the mean over what a new voxel covers; between voxels where there are more than before
        image = "area" if min(factors) < 1 else "trilinear"
        modes = [image if key == "image" else "nearest-exact" for key in self.keys]
        scaled: dict[str, Any] = Resized(self.keys, spatial_size=shape, mode=modes)(data)
        return scaled
