"""Scans outside a model's training domain: a summary of the training data, compared with each scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from pydantic import BaseModel

from medmim.data.dataset.channels import ChannelStack, missing_channels, unmatched_channels, visits_of
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.dicom.slices import PHOTOMETRIC
from medmim.data.formats.nifti import read_image
from medmim.errors import DataError, counted
from medmim.text_formats import natural_order
from medmim.training.tasks.trained_model import DROPOUT, TrainedModel

UNLIKE = "unlike_training_data"  # reason of a refusal
TRAINING_DATA = "training_data"  # keys in the description of a model
CHANNEL_MODALITIES = "channel_modalities"
_UNKNOWN = "OT"  # modality, such as of NIfTI files
_READ = 16  # volumes whose intensities are read
_FACTOR = 2.0  # scans may be this much smaller or larger than the training data
_FACTOR_AS_IS = 1.25  # the same for voxels of scans that the model does not resample
_REPAIRS = {  # of intensities: what the scans have
    "colour_to_grey": "have colours, which became grey values",
    "nan_background": "have NaN outside the body, which became the smallest value",
    "non_finite_slope_ignored": "have an invalid scl_slope, which was ignored",
}
_HOUNSFIELD = -200.0  # intensities below occur in CT only

Range = tuple[float, float]


class TrainingData(BaseModel, frozen=True):
    """A summary of the training volumes of a model.

    Attributes:
        modalities: modalities, `OT` where unknown.
        images_2d, volumes_3d: whether there were single 2D images, and volumes.
        spacing_mm, extent_mm: smallest and largest spacing and extent per axis of a volume, sorted by length;
            empty where unknown.
        lowest: smallest and largest first percentile of the intensities of a volume.
        repairs: repairs of any volume; None where unknown, in models of 0.1.0.
    """

    modalities: tuple[str, ...]
    images_2d: bool
    volumes_3d: bool
    spacing_mm: tuple[Range, ...] = ()
    extent_mm: tuple[Range, ...] = ()
    lowest: Range | None = None
    repairs: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """Return the summary as part of a sentence."""
        kinds = [*(["volumes"] if self.volumes_3d else []), *(["2D images"] if self.images_2d else [])]
        modalities = [one for one in self.modalities if one != _UNKNOWN]
        words = f"{'/'.join(modalities)} {' and '.join(kinds)}".strip()
        if not self.extent_mm:
            return words
        return f"{words} of {_ranges(self.extent_mm)} mm with voxels of {_ranges(self.spacing_mm)} mm"


def summarize(volumes: Sequence[VolumeRecord], root: Path) -> TrainingData:
    """Summarise the training volumes of a dataset folder."""
    flat = [min(volume.shape) == 1 for volume in volumes]
    known = [volume for volume in volumes if volume.flags.get("spacing") != "unknown"]
    lowest = [_lowest(volume, root) for volume in volumes[:: max(1, len(volumes) // _READ)]]
    return TrainingData(
        modalities=tuple(sorted({volume.modality for volume in volumes})),
        images_2d=any(flat),
        volumes_3d=not all(flat),
        spacing_mm=_per_axis([sorted(volume.spacing_mm) for volume in known]),
        extent_mm=_per_axis([_extent(volume) for volume in known]),
        lowest=(min(lowest), max(lowest)) if lowest else None,
        repairs=tuple(sorted({repair for volume in volumes for repair in volume.repairs})),
    )


def check_scans(
    description: Mapping[str, Any],
    scans: Sequence[VolumeRecord],
    root: Path,
    log: Callable[[str], None],
    *,
    force: bool,
    names: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return how scans differ from the training data of a described model, by volume id, and log it.

    Raises:
        DataError: if all of them differ, unless `force` is set.
    """
    reasons = {volume.id: unlike_training_data(description, volume, root) for volume in scans}
    unlike = {name: reason for name, reason in reasons.items() if reason}
    if unlike and len(unlike) == len(scans) and not force:
        first = min(unlike)
        raise DataError(
            f"refused {names.get(first, first)}: {unlike[first]}; use --force to predict anyway",
            reason=UNLIKE,
        )
    for name, reason in unlike.items():
        log(f"warning: {names.get(name, name)}: {reason}{'' if force else '; use --force to predict it'}")
    return unlike


def check_for_members(
    trained: TrainedModel,
    scans: Sequence[VolumeRecord],
    root: Path,
    log: Callable[[str], None],
    *,
    force: bool,
    names: Mapping[str, str],
) -> dict[str, str]:
    """Return how scans differ from the training data of any member of an ensemble, as `check_scans`."""
    unlike: dict[str, str] = {}
    for one in (trained, *trained.others):
        left = [scan for scan in scans if scan.id not in unlike]
        unlike |= check_scans(one.description, left, root, log, force=force, names=names)
    return unlike


def unlike_training_data(description: Mapping[str, Any], volume: VolumeRecord, root: Path) -> str | None:
    """Return how a scan differs from the training data; None if it resembles them, or nothing is known."""
    if TRAINING_DATA not in description:
        return None
    data = TrainingData.model_validate(description[TRAINING_DATA])
    as_is = (
        description["view"] == "patch" and not description["spacing_mm"] and not description.get("common_mm")
    )
    axes = description["spatial_dims"] if as_is else 0  # in 2D, the distance of slices does not matter
    found = _difference(data, volume, root, factors=[_FACTOR_AS_IS] * axes + [_FACTOR] * (3 - axes))
    return f"{found}, but the model was trained on {data}" if found else None


def _difference(
    data: TrainingData, volume: VolumeRecord, root: Path, *, factors: Sequence[float]
) -> str | None:
    flat, known = min(volume.shape) == 1, 0 not in missing_channels(volume)  # what is known is of channel 0
    if not (data.images_2d if flat else data.volumes_3d):
        return "it is a single 2D image" if flat else "it is a volume"
    if (
        known
        and _UNKNOWN not in (*data.modalities, volume.modality)
        and volume.modality not in data.modalities
    ):
        return f"it is {volume.modality}"
    if volume.flags.get("spacing") != "unknown":
        for name, values, ranges, most in (
            ("a spacing", sorted(volume.spacing_mm), data.spacing_mm, factors),
            ("an extent", _extent(volume), data.extent_mm, [_FACTOR] * 3),
        ):
            known_ranges = zip(values, ranges, most, strict=True) if ranges else ()
            if any(not low / factor <= value <= high * factor for value, (low, high), factor in known_ranges):
                return f"it has {name} of {'×'.join(f'{value:.3g}' for value in values)} mm"
    return _intensity_difference(data, _lowest(volume, root)) if data.lowest and known else None


def _intensity_difference(data: TrainingData, lowest: float) -> str | None:
    assert data.lowest
    if lowest < _HOUNSFIELD <= data.lowest[0]:
        return "it has intensities below -200, as in CT"
    if data.lowest[1] < _HOUNSFIELD and lowest >= 0:
        return "it has no negative intensities, unlike CT in Hounsfield units"
    return None


def with_modality(trained: TrainedModel, volume: VolumeRecord, *, force: bool = False) -> VolumeRecord:
    """Return the volume with the modality of the training data if it has none: CT has its own normalisation.

    Raises:
        DataError: with reason one_slice_for_3d, for a single slice and a 3D network trained on volumes: the
            prediction for a padded slice would be meaningless. `force` omits this check.
    """
    if (
        not force
        and trained.plan.dims == 3
        and min(volume.shape) == 1
        and not trained.description.get("pictures", True)
    ):
        raise DataError(f"volume {volume.id} is one slice, expected a volume", reason="one_slice_for_3d")
    description = trained.description
    modalities = description.get("modalities", ())
    if isinstance(volume, ChannelStack):
        known = description.get(CHANNEL_MODALITIES) or [modalities] * len(trained.channels)
        pairs = zip(volume.channels, volume.places, strict=True)
        stated = tuple(_stated(channel, known[place]) for channel, place in pairs)
        volume = volume.model_copy(update={"channels": stated})
    return _stated(volume, modalities)


def _stated(volume: VolumeRecord, modalities: Sequence[str]) -> VolumeRecord:
    """Return the volume with the only one of some modalities, if it has none."""
    if volume.modality != _UNKNOWN or len(modalities) != 1:
        return volume
    return volume.model_copy(update={"modality": modalities[0]})


def check_channels(
    trained: TrainedModel, dataset: Dataset, log: Callable[[str], None], names: Mapping[str, str]
) -> tuple[str, ...]:
    """Log the channels that visits lack; return the lines about those that are predicted without them.

    Raises:
        DataError: if no visit can be predicted.
    """
    (cases, rest), wanted = trained.cases(dataset, incomplete=True), trained.channels
    filled = {case.id: [wanted[number] for number in missing_channels(case)] for case in cases}
    lines = [
        f"{names[name]}: no {', '.join(lacking)}: filled with 0, the mean after normalisation, as in training"
        for name, lacking in filled.items()
        if lacking
    ]
    numbered = ", such as case_0000.nii.gz and case_0001.nii.gz" if "channel0" in wanted else ""
    dropout = "" if trained.description.get(DROPOUT) else ", or use a model trained with channel_dropout"
    remedy = f"expected one volume for each of {', '.join(wanted)}{numbered}: add what is missing{dropout}"
    refused = [
        f"{min((names[one.id] for one in visit), key=natural_order)}: "  # keys are in random order
        f"{unmatched_channels(visit, wanted)}; {remedy}"
        for visit in visits_of(rest)
    ]
    if refused and not cases:
        more = f" (and {counted(len(refused) - 1, 'more visit')})" if len(refused) > 1 else ""
        raise DataError(f"refused {refused[0]}{more}", reason="channel_missing")
    for line in (*lines, *refused):
        log(f"warning: {line}")
    return tuple(lines)


def modality_warnings(
    trained: TrainedModel, volumes: Sequence[VolumeRecord], log: Callable[[str], None]
) -> tuple[str, ...]:
    """Log and return warnings about other modalities and repairs than those of the training data."""
    trained_on = sorted(trained.description.get("modalities", ()))
    values = [*_inverted_display(volumes), *_other_repairs(trained.description, volumes)]
    if not trained_on or _UNKNOWN in trained_on:
        return _logged(values, log)
    found = Counter(volume.modality for volume in volumes)
    warnings = [
        f"modality of {count} of {counted(len(volumes), 'scan')}: {modality}, but the model was trained on "
        f"{', '.join(trained_on)}: do not rely on its predictions for them"
        for modality, count in sorted(found.items())
        if modality not in {*trained_on, _UNKNOWN}
    ]
    if trained_on == ["CT"] and found[_UNKNOWN]:
        count = f"no modality of {found[_UNKNOWN]} of {counted(len(volumes), 'scan')}"
        warnings.append(f"{count}: assumed to be CT, in Hounsfield units")
    return _logged([*warnings, *values], log)


def _other_repairs(description: Mapping[str, Any], volumes: Sequence[VolumeRecord]) -> list[str]:
    """Return a warning for each repair of intensities that no training volume had."""
    known = description.get(TRAINING_DATA, {}).get("repairs")
    counts = Counter(repair for volume in volumes for repair in volume.repairs)
    return [
        f"{counts[repair]} of {counted(len(volumes), 'scan')} {text}, unlike the training data: do not rely "
        "on predictions for them"
        for repair, text in _REPAIRS.items()
        if known is not None and counts[repair] and repair not in known
    ]


def _inverted_display(volumes: Sequence[VolumeRecord]) -> list[str]:
    """Return a warning about volumes that viewers show inverted, whose values need not be densities."""
    found = [one for one in volumes if one.flags.get(PHOTOMETRIC) and one.modality != "CT"]
    text = (
        f"{counted(len(found), 'volume')} with MONOCHROME1, where larger values are shown darker: predicted "
        "from the values as they are stored; do not rely on it unless the training data are alike"
    )
    return [text] if found else []


def _logged(warnings: Sequence[str], log: Callable[[str], None]) -> tuple[str, ...]:
    for line in warnings:
        log(f"warning: {line}")
    return tuple(warnings)


def _extent(volume: VolumeRecord) -> list[float]:
    return sorted(size * step for size, step in zip(volume.shape, volume.spacing_mm, strict=True))


def _lowest(volume: VolumeRecord, root: Path) -> float:
    """Return the first percentile of the intensities of a volume."""
    values: Any = read_image(root / volume.image).array
    return float(np.percentile(values[np.isfinite(values)], 1)) if np.isfinite(values).any() else 0.0


def _per_axis(values: Sequence[Sequence[float]]) -> tuple[Range, ...]:
    return tuple((min(axis), max(axis)) for axis in zip(*values, strict=True))


def _ranges(ranges: Sequence[Range]) -> str:
    return " × ".join(f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}" for low, high in ranges)
