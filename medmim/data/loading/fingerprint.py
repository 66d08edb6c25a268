"""Fingerprint of the training data: geometry, intensities by modality, and size and position of every class.

It is computed once from the training volumes and kept in `MEDMIM_HOME`. Normalisation, mirroring, sampling
and the plan of a run are chosen from it, without any validation or test volume.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import ndimage

from medmim import files
from medmim.data.dataset.channels import channels_of
from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.nifti import Image
from medmim.data.loading.normalisation import IntensityStatistics, body_mask
from medmim.data.loading.recorded_files import read_recorded
from medmim.errors import DataError

FOLDER = "fingerprints"  # in `MEDMIM_HOME`
_VERSION = 3  # 2: labels without any 0 were not counted
_MAX_IMAGES = 128  # volumes for intensities; labels of all volumes are read
_VOXELS_PER_VOLUME = 10_000
_CT_AIR_HU = -900.0
_LIMITS = (0.5, 99.5)
_CENTRAL = 0.05  # of the image's width: a class that close to the midline lies on neither side

Label = Int[np.ndarray, "i j k"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassStatistics(_Frozen):
    """Size and position of a class.

    Attributes:
        code: value in the label files.
        ml: median volume.
        components: median number of connected components.
        sides: for each case with the class, +1 or -1 for right or left of the image's centre, 0 near it, and
            None where the image has no left–right axis.
        positions: for each volume, position along left–right as a share of the width; None without the class.
    """

    code: int
    ml: float
    components: float
    sides: tuple[int | None, ...]
    positions: tuple[float | None, ...]


class Fingerprint(_Frozen):
    """Statistics of the training volumes.

    Attributes:
        volumes: number of volumes.
        shape, spacing_mm: medians, in voxels and mm, axes as stored.
        anisotropy: median ratio of largest to smallest spacing.
        intensities: statistics of each modality.
        classes: every class in the labels, by ascending code.
        cases: codes in each labelled volume.
        without_background: number of labels without any 0.
        likely_ct: volumes without a known modality have values of CT.
        ignore: label value of voxels without a known label.
    """

    volumes: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    anisotropy: float
    intensities: dict[str, IntensityStatistics]
    classes: tuple[ClassStatistics, ...] = ()
    cases: tuple[tuple[int, ...], ...] = ()
    without_background: int = 0
    likely_ct: bool = False
    ignore: int | None = None

    def codes(self) -> tuple[int, ...]:
        """Return the label values, ascending."""
        return tuple(one.code for one in self.classes)


def fingerprint_of(
    root: Path,
    volumes: Sequence[VolumeRecord],
    *,
    home: Path | None,
    ignore: int | None = None,
    labels: bool = True,
) -> Fingerprint:
    """Return the fingerprint of training volumes, from `home` if it was computed before.

    Args:
        volumes: training volumes, at least one.
        home: `MEDMIM_HOME`; None: compute it again.
        ignore: label value of voxels without a known label.

    Raises:
        DataError: if a file cannot be read.
    """
    place = home / FOLDER / f"{_key(volumes, ignore, labels)}.json" if home else None
    if place and place.is_file():
        try:
            return Fingerprint.model_validate_json(place.read_text(encoding="utf-8"))
        except ValidationError:
            place.unlink(missing_ok=True)
    found = _compute(root, volumes, ignore=ignore, labels=labels)
    if place:
        files.write_json(place, found.model_dump(mode="json"))
    return found


def _key(volumes: Sequence[VolumeRecord], ignore: int | None, labels: bool) -> str:
    rows = [
        [[channel.sha256, channel.modality] for channel in channels_of(volume)]
        + ([volume.label_sha256 if volume.label else None] if labels else [])
        for volume in volumes
    ]
    return hashlib.sha256(json.dumps([_VERSION, ignore, labels, rows]).encode()).hexdigest()[:32]


def _compute(root: Path, volumes: Sequence[VolumeRecord], *, ignore: int | None, labels: bool) -> Fingerprint:
    step = -(-len(volumes) // _MAX_IMAGES)
    samples: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    facts: list[dict[int, dict[str, Any]]] = []
    full = 0
    for number, volume in enumerate(volumes):
        try:
            with_label = labels and volume.label is not None
            label = read_recorded(root / str(volume.label), volume.label_sha256) if with_label else None
            read = number % step == 0
            intensities = list(_intensities(root, volume, label, ignore=ignore)) if read else []
        except (DataError, OSError) as error:
            raise DataError(
                f"volume {volume.id}: {error}; or run `medmim ingest` again", reason="damaged_dataset"
            ) from error
        facts.append(_class_facts(label, volume, ignore=ignore) if label else {})
        full += label is not None and bool(label.array.all())
        for modality, region, values in intensities:
            samples[modality, region].append(values)
    spacings = np.array([sorted(volume.spacing_mm) for volume in volumes])
    return Fingerprint(
        volumes=len(volumes),
        shape=tuple(int(n) for n in np.median([volume.shape for volume in volumes], axis=0)),
        spacing_mm=tuple(float(s) for s in np.median([volume.spacing_mm for volume in volumes], axis=0)),
        anisotropy=float(np.median(spacings[:, -1] / spacings[:, 0])),
        intensities=_statistics(samples),
        classes=_classes(facts),
        cases=tuple(tuple(sorted(one)) for one in facts if one),
        without_background=full,
        likely_ct=_looks_like_ct(samples),
        ignore=ignore,
    )


def _intensities(
    root: Path, volume: VolumeRecord, label: Image | None, *, ignore: int | None
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield modality, region and up to 10,000 evenly spaced intensities of the region, for each channel."""
    for channel in channels_of(volume):
        array = read_recorded(root / channel.image, channel.sha256).array
        values, region = np.zeros(0), "labels"
        if label is not None and label.array.shape == array.shape:
            values = array[(label.array > 0) & (label.array != (0 if ignore is None else ignore))]
        if not len(values):
            floats = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
            region = "above air" if channel.modality == "CT" else "body"
            values = (
                array[array > _CT_AIR_HU] if channel.modality == "CT" else array[body_mask(floats).numpy()]
            )
        values = values[np.isfinite(values)]
        if len(values):
            chosen = np.linspace(0, len(values) - 1, min(len(values), _VOXELS_PER_VOLUME)).astype(int)
            yield channel.modality, region, values[chosen].astype(np.float32)


def _statistics(samples: dict[tuple[str, str], list[np.ndarray]]) -> dict[str, IntensityStatistics]:
    """Return the statistics of each modality, from labelled voxels where there are any."""
    found: dict[str, IntensityStatistics] = {}
    for (modality, region), parts in sorted(samples.items(), key=lambda item: item[0][1] == "labels"):
        values = np.concatenate(parts)
        low, high = np.percentile(values, _LIMITS)
        inside = values.clip(low, high)
        found[modality] = IntensityStatistics(
            low=float(low),
            high=float(high),
            mean=float(inside.mean()),
            sd=float(inside.std()) or 1.0,
            median=float(np.median(values)),
            region=region,
        )
    return found


def _looks_like_ct(samples: dict[tuple[str, str], list[np.ndarray]]) -> bool:
    """Return whether images of unknown modality contain whole numbers down to air in HU."""
    parts = [one for (modality, _), found in samples.items() if modality == "OT" for one in found]
    return bool(parts) and all(one.min() < -150 and np.array_equal(one, np.round(one)) for one in parts)


def _class_facts(label: Image, volume: VolumeRecord, *, ignore: int | None) -> dict[int, dict[str, Any]]:
    """Return volume in ml, components and left–right position of every class of a label."""
    array: Label = label.array if label.array.dtype.kind in "iu" else np.rint(label.array).astype(np.int64)
    axis = next(number for number, end in enumerate(volume.orientation) if end in "RL")
    rightwards = volume.orientation[axis] == "R"
    width, flat = array.shape[axis], array.shape[axis] < 2
    voxel_ml = float(np.prod(volume.spacing_mm)) / 1000
    facts: dict[int, dict[str, Any]] = {}
    foreground = array != 0  # far fewer voxels to sort than the whole label has
    codes, numbers = np.unique(array[foreground], return_inverse=True)
    numbered = np.zeros(array.shape, dtype=np.int32)
    numbered[foreground] = numbers + 1
    boxes = ndimage.find_objects(numbered)
    for number, code in enumerate(codes.tolist()):
        if code == ignore:
            continue
        inside = array[boxes[number]] == code
        along = inside.sum(axis=tuple(other for other in range(3) if other != axis))
        centre = (boxes[number][axis].start + 0.5 + np.average(np.arange(len(along)), weights=along)) / width
        position = None if flat else float(centre if rightwards else 1 - centre)
        side = None if position is None else int(np.sign(position - 0.5) * (abs(position - 0.5) > _CENTRAL))
        components = ndimage.label(inside, structure=np.ones((3, 3, 3)))[1]
        facts[code] = {
            "ml": float(inside.sum()) * voxel_ml,
            "components": components,
            "side": side,
            "position": position,
        }
    return facts


def _classes(facts: Sequence[dict[int, dict[str, Any]]]) -> tuple[ClassStatistics, ...]:
    codes = sorted({code for one in facts for code in one})
    found = []
    for code in codes:
        own = [one[code] for one in facts if code in one]
        found.append(
            ClassStatistics(
                code=code,
                ml=float(np.median([one["ml"] for one in own])),
                components=float(np.median([one["components"] for one in own])),
                sides=tuple(one["side"] for one in own),
                positions=tuple(one[code]["position"] if code in one else None for one in facts),
            )
        )
    return tuple(found)
