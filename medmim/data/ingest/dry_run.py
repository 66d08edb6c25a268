"""Preview of an ingestion from headers alone: one row per DICOM series, and counts of all other files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from medmim.data.dataset.series_tokens import VOCABULARY
from medmim.data.dicom.series import group_slices
from medmim.data.dicom.slices import RejectedSlices, SingleImage, SliceGroup
from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.context import IngestContext
from medmim.data.ingest.dataset_warnings import layout_warnings
from medmim.data.ingest.dicom_masks import take_given_roles
from medmim.data.ingest.dicom_series import slices_of
from medmim.data.ingest.dicom_subjects import apply_subject_rule, doubtful_patients
from medmim.data.ingest.labels import find_labels
from medmim.data.ingest.layout import find_layout
from medmim.data.ingest.nifti_fourth_axis import split_frames
from medmim.data.ingest.scan import ScannedFile
from medmim.data.ingest.sources import Sources
from medmim.data.ingest.volumes import READABLE, is_readable, layout_query
from medmim.data.ingest.warning_texts import warning_text

_TAIL = 6  # characters of a series UID that are shown, to match label files


@dataclass(frozen=True)
class SeriesRow:
    """A group of slices of a series; patient, study and series are numbers in order of appearance.

    `outcome` is volume, picture, or the reason of the refusal; `measured` are the numbers behind it.
    """

    patient: int
    study: int
    series: int
    modality: str
    tokens: tuple[str, ...]
    files: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    outcome: str
    measured: Mapping[str, float]
    notes: tuple[str, ...] = ()
    uid_tail: str = ""


@dataclass(frozen=True)
class PatientRow:
    """Images of one patient of the layout; `patient` is a number in order of appearance."""

    patient: int
    images: int
    labels: int
    visits: int
    contrasts: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """Rows of DICOM series and of patients of the layout, counts of images and labels, other files."""

    files_seen: int
    series: tuple[SeriesRow, ...]
    layout: str | None
    images: int
    labels: int
    others: Mapping[str, int]
    patients: tuple[PatientRow, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {"dry_run": True, **asdict(self)}


def preview_of(context: IngestContext, sources: Sources, seen: Mapping[int, ScannedFile]) -> Preview:
    """Classify every series by its headers and every other file by its name; pixels are not read.

    Raises:
        UsageError: for an unknown layout.
        DataError: if the named layout finds no image.
    """
    paths = sources.readable
    readable = {paths[number] for number, one in seen.items() if is_readable(one, paths[number])}
    query = layout_query(context, sources.source, readable)
    seen = apply_subject_rule(query.rules.subjects, seen, paths, query.source)
    seen, labels, skipped = take_given_roles(context, query.source, seen, paths)
    slices, blocked = slices_of(seen, paths)
    groups = group_slices(slices, blocked)
    rest = {number: one for number, one in seen.items() if not one.headers}
    label_files = set(find_labels(context, sources, seen, paths)[0].values())
    open_to_layout = {
        paths[number]
        for number, one in rest.items()
        if one.fate != "quarantined" and paths[number].is_relative_to(query.source)
    } - label_files
    found = find_layout(query, sorted(open_to_layout)) if open_to_layout else None
    if found:
        found = replace(found, cases=split_frames(context, found.cases, beside_dicom=bool(groups)))
    used = {path for case in found.cases for path in case.files} if found else set()
    reasons = {**(found.other if found else {}), **dict.fromkeys(label_files, "label")}
    others = Counter(
        reasons.get(paths[number], one.reason) if not one.reason or one.reason in READABLE else one.reason
        for number, one in rest.items()
        if paths[number] not in used
    )
    given = Counter(skipped_by_role=len(skipped), label=sum(map(len, labels.values())))
    others.update(+given)
    warnings = doubtful_patients(seen, paths, query.source)
    if found and found.cases:
        warnings = (*layout_warnings(found, (), ()), *warnings)
    return Preview(
        files_seen=len(seen) + given.total(),
        series=tuple(_rows(groups)),
        layout=found.name if found and found.cases else None,
        images=len(found.cases) if found else 0,
        labels=sum(bool(case.labels) for case in found.cases) if found else 0,
        others=dict(sorted((reason or "not_in_layout", count) for reason, count in others.items())),
        patients=tuple(_patients(found.cases)) if found else (),
        warnings=tuple(map(warning_text, warnings)),
    )


def _patients(cases: Sequence[LayoutCase]) -> list[PatientRow]:
    groups: dict[str, list[LayoutCase]] = {}
    for case in cases:
        groups.setdefault(case.subject, []).append(case)
    return [
        PatientRow(
            patient=number,
            images=len(members),
            labels=sum(bool(case.labels) for case in members),
            visits=len({case.study for case in members}),
            contrasts=tuple(sorted({" ".join(case.tokens) or case.modality for case in members})),
        )
        for number, members in enumerate(groups.values(), start=1)
    ]


def _rows(groups: Sequence[SliceGroup]) -> list[SeriesRow]:
    numbers: tuple[dict[str, int], ...] = ({}, {}, {})
    rows = []
    for group in sorted(groups, key=lambda one: one.slices[0].number):
        header = group.slices[0].header
        names = (header.patient or header.study, header.study, header.series)
        patient, study, series = (
            known.setdefault(name, len(known) + 1) for known, name in zip(numbers, names, strict=True)
        )
        found = {token for one in group.slices for token in one.header.tokens}
        shape, spacing = _grid(group)
        outcome, measured = _outcome(group)
        rows.append(
            SeriesRow(
                patient=patient,
                study=study,
                series=series,
                modality=header.modality,
                tokens=tuple(token for token in VOCABULARY if token in found),
                files=len({one.number for one in group.slices}),
                shape=shape,
                spacing_mm=spacing,
                outcome=outcome,
                measured=measured,
                notes=_notes(group),
                uid_tail=header.series[-min(_TAIL, len(header.series) // 2) :],
            )
        )
    return rows


def _outcome(group: SliceGroup) -> tuple[str, dict[str, float]]:
    if isinstance(group, RejectedSlices):
        return group.reason, dict(group.measured)
    return "picture" if isinstance(group, SingleImage) else "volume", {}


def _grid(group: SliceGroup) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return shape and spacing in mm; for refused slices, those of the first slice."""
    header = group.slices[0].header
    if isinstance(group, RejectedSlices):
        return (header.columns, header.rows, len(group.slices)), tuple(header.spacing or ())
    count = 1 if isinstance(group, SingleImage) else len(group.slices)
    lengths = [float((group.affine[:3, axis] ** 2).sum() ** 0.5) for axis in range(3)]
    return (header.columns, header.rows, count), tuple(round(length, 3) for length in lengths)


def _notes(group: SliceGroup) -> tuple[str, ...]:
    if isinstance(group, RejectedSlices):
        return ()
    return (*group.repairs, *(f"{name}: {value}" for name, value in group.flags.items()))
