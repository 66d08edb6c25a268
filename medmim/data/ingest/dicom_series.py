"""DICOM files to volumes and single images: drop copies, group and convert slices, record outcomes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.series_tokens import VOCABULARY
from medmim.data.dicom.conversion_task import ConversionResult, ConversionTask
from medmim.data.dicom.convert_single_image import convert_single_image
from medmim.data.dicom.convert_uncompressed import convert_uncompressed
from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.gantry_tilt import is_tilted
from medmim.data.dicom.series import group_slices
from medmim.data.dicom.slices import (
    RejectedSlices,
    SingleImage,
    Slice,
    SliceGroup,
    SliceStack,
    group_by,
    position_and_steps,
)
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stored_path
from medmim.data.ingest.dicom_copies import compare, drop_copies, hash_pixels
from medmim.data.ingest.ledger import FileOutcomes
from medmim.data.ingest.scan import ScannedFile

_PHASES: dict[Callable[[ConversionTask], ConversionResult], str]
_PHASES = {convert_uncompressed: "convert", convert_with_decoder: "decode", convert_single_image: "pictures"}
_DAMAGE = {"truncated", "bad_header", "bad_size", "no_pixel_data", "missing_uid", "damaged", "memory"}
_WRITTEN = {"shape", "spacing_mm", "orientation", "sha256", "pixels_sha256", "perceptual_hash"}


def volumes_from_dicom(
    context: IngestContext, scanned: Mapping[int, ScannedFile], paths: Mapping[int, Path]
) -> list[IngestedVolume]:
    """Convert every stack of slices to a volume and every lone image to a single image.

    `slices` of a volume follow its third array axis: entry k is the instance of `array[:, :, k]`.
    """
    slices, blocked = slices_of(scanned, paths)
    outcomes = FileOutcomes()
    kept = _without_burned_in_risk(context, outcomes, slices)
    kept = drop_copies(context, outcomes, kept, blocked)
    groups = []
    for group in _grouped(context, outcomes, kept, blocked):
        if isinstance(group, RejectedSlices):
            outcomes.add(numbers_of(group), "quarantined", group.reason, measured=group.measured)
        else:
            groups.append(group)
    converted = convert_groups(context, groups, _identifiers(context, groups))
    scans = {_grid(one) for one in converted if not one.result.label_like}
    volumes = []
    for one in converted:
        reason = one.result.reason or (
            "looks_like_label" if one.result.label_like and _grid(one) in scans else ""
        )
        if reason:
            outcomes.add(numbers_of(one.group), "quarantined", reason, measured=one.result.measured)
        else:
            volumes.append(_accept(context, outcomes, one))
    outcomes.write(context.ledger)
    return volumes


def slices_of(
    scanned: Mapping[int, ScannedFile], paths: Mapping[int, Path]
) -> tuple[list[Slice], dict[str, str]]:
    """Return all slices in source order, and the series that a damaged file blocks, with the reason."""
    sound = {header.instance for one in scanned.values() for header in one.headers[:1]}
    blocked = {
        one.series: "damaged_series"
        for one in scanned.values()
        if one.series and one.reason in _DAMAGE and one.instance not in sound
    }
    slices = [
        Slice(number, paths[number], header)
        for number, one in sorted(scanned.items())
        for header in one.headers
    ]
    return slices, blocked


def _without_burned_in_risk(
    context: IngestContext, outcomes: FileOutcomes, slices: Sequence[Slice]
) -> list[Slice]:
    """Quarantine images that often show the patient's name, unless the user has checked them."""
    if context.options.allow_burned_in:
        return list(slices)
    outcomes.add({one.number for one in slices if one.header.burned_in_risk}, "quarantined", "burned_in_risk")
    return [one for one in slices if not one.header.burned_in_risk]


def _grouped(
    context: IngestContext, outcomes: FileOutcomes, slices: list[Slice], blocked: Mapping[str, str]
) -> list[SliceGroup]:
    """Group slices; where several lie at one position and nothing separates them, equal ones are dropped."""
    uneven = context.options.uneven_spacing != "reject"
    groups = group_slices(slices, blocked, compared=False, uneven=uneven)
    unclear = {
        id(one)
        for group in groups
        if isinstance(group, RejectedSlices) and group.reason == "duplicate_position"
        for one in group.slices
    }
    if not unclear:
        return groups
    series = {one.header.series for one in slices if id(one) in unclear}
    places = group_by(
        [one for one in slices if id(one) in unclear and one.header.kind == "slice"],
        lambda one: (one.header.series, one.header.position, one.header.orientation, one.header.slope),
    )
    _, copies = compare(context, [place for place in places if len(place) > 1], hash_pixels)
    outcomes.add(sorted(copies), "skipped", "duplicate_slice")
    again = [one for one in slices if one.header.series in series and one.number not in copies]
    kept = [group for group in groups if group.slices[0].header.series not in series]
    return [*kept, *group_slices(again, blocked, uneven=uneven)]


def _way_of(group: SliceStack | SingleImage) -> Callable[[ConversionTask], ConversionResult]:
    """Return the function that converts a group."""
    if isinstance(group, SingleImage):
        return convert_single_image
    plain = all(one.header.raw for one in group.slices) and not is_tilted(group.affine, len(group.slices))
    trusted = not any("transfer_syntax_ignored" in one.header.repairs for one in group.slices)
    return convert_uncompressed if plain and trusted else convert_with_decoder


class ConvertedGroup(NamedTuple):
    """A group of slices, the id and file of its volume, and the result of the conversion."""

    group: SliceStack | SingleImage
    name: str
    target: str
    result: ConversionResult


def _grid(one: ConvertedGroup) -> Hashable:
    """Return what a mask shares with its scan: patient, study, shape, spacing and orientation."""
    header, result = one.group.slices[0].header, one.result
    return header.patient, header.study, result.shape, result.spacing_mm, result.orientation


def convert_groups(
    context: IngestContext, groups: Sequence[SliceStack | SingleImage], names: Sequence[str]
) -> list[ConvertedGroup]:
    """Convert groups of slices to files of these names in the staging folder."""
    converted = []
    for way, phase in _PHASES.items():
        chosen = [pair for pair in zip(groups, names, strict=True) if _way_of(pair[0]) is way]
        tasks = [_task(context, group, name) for group, name in chosen]
        answers = context.each(
            phase,
            way,
            [{"task": task} for task in tasks],
            limits=READ_LIMITS,
            keep=ConversionResult.model_validate,
        )
        converted += [
            ConvertedGroup(
                group, name, task.target, answer.value or ConversionResult(reason=answer.reason or "unusable")
            )
            for (group, name), task, answer in zip(chosen, tasks, answers, strict=True)
        ]
    return converted


def _accept(context: IngestContext, outcomes: FileOutcomes, one: ConvertedGroup) -> IngestedVolume:
    """Note the outcome of the files of a converted group and return its volume."""
    reason = _reason(one.group, one.result.measured)
    outcomes.add(numbers_of(one.group), "accepted", reason, volume=one.name, measured=one.result.measured)
    first = one.group.slices[0]
    name = first.path.name if isinstance(one.group, SingleImage) else ""  # tables name pictures by it
    record = _record(context, one.group, one.name, one.result)
    return IngestedVolume(record, first.header.series, Path(one.target), path=name)


def _identifiers(context: IngestContext, groups: Sequence[SliceStack | SingleImage]) -> list[str]:
    """Return the ids of volumes: each depends on the series and the instances, not on names of files."""
    return [
        context.keys.key(
            "volume", "\0".join([group.slices[0].header.series, *sorted(_instances(group.slices))])
        )
        for group in groups
    ]


def _instances(slices: Sequence[Slice]) -> Iterable[str]:
    """Return the instance of each slice, with its frame or, if instances repeat, its position and number."""
    repeated = len({(one.header.instance, one.header.frame) for one in slices}) < len(slices)
    for one in slices:
        header = one.header
        frame = "" if header.kind == "slice" or not header.frame else f" {header.frame}"
        yield f"{header.instance}{frame}" + (f" {header.position} {header.number}" if repeated else "")


def _task(context: IngestContext, group: SliceStack | SingleImage, name: str) -> ConversionTask:
    headers = [one.header for one in group.slices]
    stack = group if isinstance(group, SliceStack) else None
    places = [position_and_steps(header) for header in headers] if stack else []
    if stack and "orientation_evened" in stack.repairs:
        axes = (np.diag([-1.0, -1.0, 1.0]) @ stack.affine[:3, :2]).T.ravel().tolist()
        places = [[*place[:3], *axes] for place in places]
    return ConversionTask(
        files=tuple(str(one.path) for one in group.slices),
        frames=tuple(header.frame for header in headers),
        kind=headers[0].kind,
        size=(headers[0].rows, headers[0].columns),
        affine=group.affine.tolist(),
        scales=tuple((header.slope, header.intercept) for header in headers),
        padding=tuple(header.padding for header in headers) if any(one.padding for one in headers) else (),
        places=tuple(map(tuple, places)),
        raw=tuple(header.raw for header in headers if header.raw),
        heights_mm=stack.heights_mm if stack else (),
        regrid=context.options.uneven_spacing == "regrid",
        reversed_rows=any(header.reversed_rows for header in headers),
        staging=str(context.staged(f"{name}.work")),
        target=str(context.staged(f"{name}.nii.gz")),
    )


def _record(
    context: IngestContext, group: SliceStack | SingleImage, name: str, result: ConversionResult
) -> VolumeRecord:
    header = group.slices[0].header
    options = context.options
    keys = context.file_keys if options.rules.subjects or options.separate_patients else context.keys
    subject = keys.key("subject", header.patient or header.study)
    study = context.keys.key("study", header.study)
    tokens = {token for one in group.slices for token in one.header.tokens}
    flags = {**group.flags, **result.flags}
    instances = [(one.header.instance, one.header.frame) for one in group.slices]
    if len(set(instances)) < len(instances):
        flags["repeated_instance_uid"] = str(len(instances) - len(set(instances)))
    if any(one.header.burned_in_risk for one in group.slices):
        flags["burned_in_text"] = "possible"
    uneven = isinstance(group, SliceStack) and group.heights_mm
    regridded = ("regridded",) if "regridded_slices" in result.measured else ()
    repairs = (*group.repairs, *result.repairs, *(regridded or (("uneven_spacing_kept",) if uneven else ())))
    return VolumeRecord(
        id=name,
        subject=subject,
        study=study,
        series=context.keys.key("series", header.series),
        image=stored_path("volumes", subject, study, name),
        modality=header.modality,
        spatial_dims=3 if isinstance(group, SliceStack) else 2,
        **result.model_dump(include=_WRITTEN),
        loose_subject=keys.loose_key(header.patient) if header.patient else None,
        verdict="repaired" if repairs else "right",
        repairs=repairs,
        tokens=tuple(token for token in VOCABULARY if token in tokens),
        slices=()
        if regridded
        else tuple(context.keys.key("instance", slice_id(one)) for one in group.slices),
        flags=flags,
    )


def slice_id(one: Slice) -> str:
    """Return the text whose key identifies a slice in the manifest: instance and, if it has many, frame."""
    header = one.header
    return f"{header.instance} frame {header.frame}" if header.kind == "frame" else header.instance


def numbers_of(group: SliceGroup) -> set[int]:
    """Return the numbers of the files of a group."""
    return {one.number for one in group.slices}


def _reason(group: SliceStack | SingleImage, measured: Mapping[str, float]) -> str:
    what = "volume" if isinstance(group, SliceStack) else "picture"
    if not group.slices[0].header.patient:
        return f"{what}_without_patient"
    return f"{what}_one_decoder" if measured.get("slices_compared") == 0 else what
