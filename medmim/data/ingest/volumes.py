"""Volume files and pictures, ingested with the labels, boxes and classes of their layout."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import Fate, VolumeRecord
from medmim.data.dataset.series_tokens import VOCABULARY
from medmim.data.formats.annotations import box_records
from medmim.data.formats.case import read_case
from medmim.data.formats.images import is_picture
from medmim.data.formats.plain_arrays import ARRAY_NAMES
from medmim.data.ingest.annotations import AnnotationResult, annotate
from medmim.data.ingest.cases import DatasetLayout, LayoutCase
from medmim.data.ingest.class_masks import MaskLabel, Masks, merge_masks
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stem_of, stored_path
from medmim.data.ingest.dataset_json import DatasetJson, read_dataset_json
from medmim.data.ingest.layout import LayoutQuery, find_layout, may_be_image
from medmim.data.ingest.ledger import FileOutcomes
from medmim.data.ingest.nifti_fourth_axis import frame_path, split_frames
from medmim.data.ingest.npz_arrays import volumes_from_arrays
from medmim.data.ingest.scan import ScannedFile
from medmim.data.ingest.volume_facts import VolumeFacts, examine_volume
from medmim.data.sandbox.sandbox import Answer

# reasons that the scan gives to files that are opened here
READABLE = ("picture", "volume_file", "arrays")


def volumes_from_nifti(
    context: IngestContext,
    source: Path,
    *,
    seen: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    beside_dicom: bool = False,
) -> tuple[list[IngestedVolume], DatasetLayout | None]:
    """Ingest every image of the layout.

    Args:
        seen: all files except DICOM images and label files, by number; their outcomes are recorded here.
    """
    readable = {paths[number] for number, one in seen.items() if is_readable(one, paths[number])}
    if context.options.layout is None and not readable:
        _record_others(context, seen, {}, set())
        return [], None
    numbers = {paths[number]: number for number in seen}
    query = layout_query(context, source, readable)
    known = annotate(context, source, find_layout(query, sorted(numbers)))
    found = known.layout
    _record_annotations(context, seen, known, numbers)
    cases = [
        _VolumeTask(case, context.file_keys.key("volume", frame_path(case, source)))
        for case in split_frames(context, found.cases, beside_dicom=beside_dicom)
    ]
    merged = merge_masks(
        context,
        [work.case.labels for work in cases],
        {**known.layout.label_names, **context.options.label_names},
    )
    tasks = [_task(context, work, known, merged) for work in cases]
    answers = context.each("read", read_case, tasks, limits=READ_LIMITS)
    made = _collect(context, source, list(zip(cases, answers, strict=True)), merged=merged, numbers=numbers)
    made += volumes_from_arrays(context, source, layout=found, numbers=numbers)
    return made, found


def _collect(
    context: IngestContext,
    source: Path,
    pairs: Sequence[tuple[_VolumeTask, Answer]],
    *,
    merged: Mapping[Masks, MaskLabel],
    numbers: Mapping[Path, int],
) -> list[IngestedVolume]:
    """Return the volumes that were read; record the outcome of their files and labels."""
    made: list[IngestedVolume] = []
    outcomes = FileOutcomes()
    labels: dict[int, list[tuple[str, Mapping[str, Any] | None]]] = {}
    for work, answer in pairs:
        case, files = work.case, [numbers[path] for path in (work.case.image, *work.case.parts)]
        if answer.value is None:
            outcomes.add(files, "quarantined", answer.reason or "unusable")
        else:
            one = _accept(context, work, facts=answer.value, source=source)
            drawn = merged[case.labels].regions if case.labels in merged and one.staged_label else None
            made.append(replace(one, class_names=drawn.names, regions=drawn.regions) if drawn else one)
            reason, measured = "picture" if is_picture(case.image) else "volume", answer.value["measured"]
            if not case.labels and "reason" in (answer.value["label"] or {}):  # a label in the image's file
                reason = f"{reason}_without_{answer.value['label']['reason']}"
            outcomes.add(files, "accepted", reason, volume=work.name, measured=measured)
        for label, _ in case.labels:
            outcome = None if answer.value is None else _label_outcome(answer.value["label"], merged, case)
            labels.setdefault(numbers[label], []).append((work.name, outcome))
    outcomes.write(context.ledger)
    for number, tried in labels.items():
        _record_shared_label(context, number, tried)
    return made


def _record_annotations(
    context: IngestContext,
    seen: Mapping[int, ScannedFile],
    known: AnnotationResult,
    numbers: Mapping[Path, int],
) -> None:
    """Record the outcome of annotation files and of files without a role."""
    found = known.layout
    used = {path for case in found.cases for path in case.files}
    used |= {*known.used, *known.lost, *(found.arrays or ())}
    others = {numbers[path]: reason for path, reason in found.other.items()}
    _record_others(context, seen, others, {numbers[path] for path in used})
    for path in known.used | known.lost:
        reason = known.lost.get(path, "annotations")
        fate: Fate = "quarantined" if path in known.lost else "accepted"
        context.ledger.record([numbers[path]], fate, reason, measured=known.used.get(path))


def _unknown_geometry(case: LayoutCase) -> dict[str, str]:
    """Return the flags of an image whose format does not state its geometry."""
    array = case.image.name.lower().endswith(ARRAY_NAMES)
    flags = {"spacing": "unknown"} if (array or is_picture(case.image)) and case.spacing_mm is None else {}
    return {**flags, "orientation": "unknown"} if array else flags


def _label_outcome(
    facts: Mapping[str, Any] | None, merged: Mapping[Masks, MaskLabel], case: LayoutCase
) -> dict[str, Any]:
    """Return the facts or the refusal of a label, with the counts of its merged masks."""
    masks = merged.get(case.labels)
    if masks and masks.reason:
        return {"reason": masks.reason, "measured": {}}
    return dict(facts or {}) | ({"measured": dict(masks.measured)} if masks else {})


def record_label(
    context: IngestContext, numbers: Sequence[int], volume: str, facts: Mapping[str, Any]
) -> None:
    """Record the outcome of the files of a label."""
    measured = facts.get("measured")
    if "reason" in facts:
        context.ledger.record(numbers, "quarantined", facts["reason"], volume=volume, measured=measured)
        return
    reason = "label_resampled" if facts.get("resampled") else "label"
    reason = reason if facts["values"] else "label_empty"
    context.ledger.record(numbers, "accepted", reason, volume=volume, measured=measured)


@dataclass(frozen=True)
class _VolumeTask:
    """A case and the id of its volume."""

    case: LayoutCase
    name: str


def _record_shared_label(
    context: IngestContext, number: int, tried: Iterable[tuple[str, Mapping[str, Any] | None]]
) -> None:
    """Record the outcome of a label that several images share: accepted if it fits any of them."""
    known = [(volume, facts) for volume, facts in tried if facts is not None]
    if not known:
        context.ledger.record([number], "quarantined", "label_without_image")
        return
    fitting = [(volume, facts) for volume, facts in known if "reason" not in facts]
    volume, facts = (fitting or known)[0]
    record_label(context, [number], volume, facts)


def _record_others(
    context: IngestContext, seen: Mapping[int, ScannedFile], others: Mapping[int, str], used: set[int]
) -> None:
    """Record files without a role with the reason of the layout or of the scan."""
    for number, one in seen.items():
        if number in used:
            continue
        reason = others.get(number, "not_in_layout")
        fate: Fate = "skipped"
        if one.fate and reason in ("not_an_image", "not_in_layout") and one.reason not in READABLE:
            fate, reason = one.fate, one.reason
        context.ledger.record([number], fate, reason, measured=one.measured)


def is_readable(one: ScannedFile, path: Path) -> bool:
    """Return whether a file can be read as a volume, picture or array."""
    return one.nifti or (one.reason in READABLE and may_be_image(path))


def layout_query(context: IngestContext, source: Path, readable: Collection[Path]) -> LayoutQuery:
    """Return the query for the layout of a source, with readers that run in the sandbox."""

    def examine(paths: Sequence[Path]) -> dict[Path, VolumeFacts]:
        tasks = [{"path": str(context.file(path))} for path in paths]
        answers = context.each("examine", examine_volume, tasks, limits=READ_LIMITS)
        pairs = zip(paths, answers, strict=True)
        return {path: VolumeFacts.model_validate(answer.value) for path, answer in pairs if answer.value}

    return LayoutQuery(
        source=source,
        read=partial(_dataset_json_in, context),
        examine=examine,
        readable=readable,
        name=context.options.layout,
        rules=context.options.rules,
    )


def _dataset_json_in(context: IngestContext, paths: Sequence[Path]) -> dict[Path, DatasetJson]:
    """Read `dataset.json` files in sandboxes; damaged files are left out."""
    tasks = [{"path": str(context.file(path))} for path in paths]
    answers = context.each("descriptors", read_dataset_json, tasks)
    pairs = zip(paths, answers, strict=True)
    return {path: DatasetJson.model_validate(answer.value) for path, answer in pairs if answer.value}


def _task(
    context: IngestContext, work: _VolumeTask, known: AnnotationResult, merged: Mapping[Masks, MaskLabel]
) -> dict[str, Any]:
    """Return the arguments of `read_case`."""
    case, marks = work.case, known.marks.get(work.case.image)
    label = context.file(case.labels[0][0]) if case.labels else None
    if masks := merged.get(case.labels):
        label = None if masks.reason else masks.file
    if marks is None and case.healthy:
        marks = []
    names, noted = {**known.layout.label_names, **context.options.label_names}, None
    if marks is not None:
        numbers = {name: number for number, name in names.items()}
        renamed = {name: names[number] for number, name in known.layout.label_names.items()}
        marks = [{**mark, "name": renamed.get(mark["name"], mark["name"])} for mark in marks]
        noted = {"marks": marks, "numbers": numbers, "empty": not marks and known.outlined}
    return {
        "image": str(context.file(case.image)),
        "label": None if label is None else str(label),
        "target": str(context.staged(f"{work.name}.nii.gz")),
        "label_target": str(context.staged(f"{work.name}.label.nii.gz")),
        "resample": context.options.resample_labels,
        "spacing_mm": case.spacing_mm,
        "frame": case.frame,
        "ignore_label": context.options.ignore_label,
        "noted": noted,
        "boxed": list(names.items()) if known.layout.boxes_from_labels else (),
    }


def _accept(
    context: IngestContext, work: _VolumeTask, *, facts: Mapping[str, Any], source: Path
) -> IngestedVolume:
    case, name = work.case, work.name
    patient = facts["image"]["pixels_sha256"] if case.subject_by_pixels else case.subject
    subject, study = context.file_keys.key("subject", patient), context.file_keys.key("study", case.study)
    label = facts["label"] if facts["label"] and "reason" not in facts["label"] else None
    repairs = (*facts["repairs"], *(["label_resampled"] if label and label.get("resampled") else []))
    relative = case.image.relative_to(source).as_posix()
    volume = VolumeRecord(
        id=name,
        subject=subject,
        study=study,
        series=context.file_keys.key("series", relative),
        image=stored_path("volumes", subject, study, name),
        modality=case.modality,
        spatial_dims=2 if facts["image"]["shape"][2] == 1 else 3,
        **facts["image"],
        loose_subject=None if case.subject_by_pixels else context.file_keys.loose_key(patient),
        verdict="repaired" if repairs else "right",
        repairs=repairs,
        label=stored_path("labels", subject, study, name) if label else None,
        label_sha256=label["sha256"] if label else None,
        boxes=box_records(facts["boxes"]),
        target=case.target,
        targets=dict(case.targets),
        split=case.split,
        group=None if case.group is None else context.file_keys.key("group", case.group),
        tokens=tuple(token for token in VOCABULARY if token in case.tokens),
        flags=_unknown_geometry(case),
    )
    staged = IngestedVolume(volume, stem_of(case.image), context.staged(f"{name}.nii.gz"), path=relative)
    if label is None:
        return staged
    staged_label, classes = context.staged(f"{name}.label.nii.gz"), tuple(label["values"])
    return replace(staged, staged_label=staged_label, classes=classes)
