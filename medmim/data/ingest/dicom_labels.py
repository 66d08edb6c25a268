"""Segments of DICOM and 3D Slicer labels: one class number for equally named segments of all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.data.dicom.read_labels import read_segments
from medmim.data.formats.slicer_segments import number_slicer_segments, read_slicer_segments
from medmim.data.ingest.context import READ_LIMITS, IngestContext

Segment = tuple[int, str, str]


@dataclass(frozen=True)
class LabelObject:
    """A DICOM label: the series that it refers to, and the class number of each segment by its own number.

    `names` are the names of classes that may be written; the source's own words may identify a patient.
    """

    series: str
    numbers: dict[str, int]
    names: dict[int, str]


def read_objects(
    context: IngestContext, paths: Mapping[int, Path], series_of: Mapping[str, str]
) -> dict[int, LabelObject]:
    """Read the segments of DICOM labels; labels that cannot be used are recorded in the ledger.

    Args:
        series_of: series of each image by SOPInstanceUID, for labels that do not name a series.
    """
    tasks = [{"path": str(context.file(path))} for path in paths.values()]
    answers = context.each("labels", read_segments, tasks, limits=READ_LIMITS)
    found: dict[int, tuple[str, list[Segment]]] = {}
    for number, answer in zip(paths, answers, strict=True):
        if answer.value is None:
            context.ledger.record([number], "quarantined", answer.reason or "unusable")
            continue
        named = [series_of[one] for one in answer.value["instances"] if one in series_of]
        series = sorted({*answer.value["series"], *named})
        segments = [(int(one[0]), str(one[1]), str(one[2])) for one in answer.value["segments"]]
        if len(series) == 1:
            found[number] = (series[0], segments)
        else:
            measured = {"series": float(len(series))}
            context.ledger.record([number], "quarantined", "label_series_unclear", measured=measured)
    classes = _classes([segments for _, segments in found.values()], context.options.label_names)
    return {
        number: LabelObject(
            series,
            {str(one[0]): classes[_key(one)] for one in segments},
            {classes[_key(one)]: one[2] for one in segments if one[2]},
        )
        for number, (series, segments) in found.items()
    }


def number_slicer_labels(
    context: IngestContext, paths: Sequence[Path]
) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Give equally named segments of 3D Slicer files one number in staged copies.

    Files that cannot be read, or have no named segments, are left as they are.

    Returns:
        Names by number, and warnings about overlapping segments.
    """
    tasks = [{"path": str(context.file(path))} for path in paths]
    answers = context.each("labels", read_slicer_segments, tasks, limits=READ_LIMITS)
    pairs = [(path, one.value) for path, one in zip(paths, answers, strict=True) if one.value]
    found = {path: [(int(value), str(name), str(name)) for value, name in own] for path, own in pairs}
    classes = _classes(list(found.values()), context.options.label_names)
    targets = [context.staged(f"slicer-{number}.nii.gz") for number, _ in enumerate(found)]
    written_tasks: list[dict[str, Any]] = [
        {"path": str(context.file(path)), "numbers": {one[1]: classes[_key(one)] for one in own}}
        | {"target": str(target)}
        for (path, own), target in zip(found.items(), targets, strict=True)
    ]
    written = context.each("labels", number_slicer_segments, written_tasks, limits=READ_LIMITS)
    context.unpacked.update(
        {
            path: target
            for path, target, one in zip(found, targets, written, strict=True)
            if one.value is not None
        }
    )
    overlaps = [int(one.value) for one in written if one.value]
    warning = {"kind": "segments_overlap", "files": len(overlaps), "voxels": sum(overlaps)}
    names = {classes[_key(one)]: one[1] for own in found.values() for one in own}
    return names, [warning] if overlaps else []


def _classes(labels: Sequence[Sequence[Segment]], given: Mapping[int, str]) -> dict[str, int]:
    """Give each name one number: the user's, its own if that is free, else the next free one."""
    classes = {name.lower(): number for number, name in given.items()}
    for segments in labels:
        for one in segments:
            if _key(one) not in classes:
                taken = set(classes.values())
                free = next(n for n in range(1, len(taken) + 2) if n not in taken)
                classes[_key(one)] = one[0] if 0 < one[0] < 2**16 and one[0] not in taken else free
    return classes


def _key(segment: Segment) -> str:
    """Return what separates classes: the segment's name, its code, or its number."""
    return (segment[1].strip() or segment[2] or f"segment {segment[0]}").lower()
