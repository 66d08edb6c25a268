"""Volume files and pictures to volumes, with the labels, boxes and classes that their data set gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.dataset.vocabulary import VOCABULARY
from medmim.data.formats.annotations import boxes_of
from medmim.data.formats.case import read_case
from medmim.data.formats.images import is_picture
from medmim.data.ingest.annotations import AnnotationResult, annotate
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stem_of, stored_path
from medmim.data.ingest.dataset_json import dataset_json_in
from medmim.data.ingest.layout import DatasetLayout, LayoutCase, find_layout
from medmim.data.ingest.npz_arrays import volumes_from_arrays
from medmim.data.ingest.scan import ScannedFile

# what the scan says of files that it does not open itself
_READABLE = ("picture", "volume_file", "arrays")


def volumes_from_nifti(
    bench: IngestContext,
    source: Path,
    *,
    seen: Mapping[int, ScannedFile],
    paths: Mapping[int, Path],
    layout: str | None,
) -> tuple[list[IngestedVolume], DatasetLayout | None]:
    """Make a volume of every image that the layout knows.

    Args:
        bench: where to work.
        source: the folder that was walked.
        seen: all files but DICOM and labels, by number; all of them get their fate here.
        paths: the files, by number.
        layout: name of a data set descriptor; None to detect it.
    """
    if layout is None and not any(one.nifti or one.reason in _READABLE for one in seen.values()):
        _put_others(bench, seen, {}, set())
        return [], None
    numbers = {paths[number]: number for number in seen}
    found = find_layout(source, sorted(numbers), read=partial(dataset_json_in, bench), name=layout)
    known = annotate(bench, source, found)
    found = known.layout
    _put_notes(bench, seen, known, numbers)
    cases = [
        _VolumeTask(case, bench.keys.key("volume", str(case.image.relative_to(source))))
        for case in found.cases
    ]
    tasks = [_task(bench, work, known) for work in cases]
    answers = bench.each("read", read_case, tasks, limits=READ_LIMITS)
    made: list[IngestedVolume] = []
    labels: dict[int, list[tuple[str, Mapping[str, Any] | None]]] = {}
    for work, answer in zip(cases, answers, strict=True):
        case, files = work.case, [numbers[path] for path in (work.case.image, *work.case.parts)]
        if answer.value is None:
            bench.ledger.put(files, "quarantined", answer.reason or "unusable")
        else:
            made.append(_accept(bench, work, facts=answer.value, source=source))
            reason, measured = "picture" if is_picture(case.image) else "volume", answer.value["measured"]
            bench.ledger.put(files, "accepted", reason, volume=work.name, measured=measured)
        if case.label is not None:
            facts = None if answer.value is None else answer.value["label"]
            labels.setdefault(numbers[case.label], []).append((work.name, facts))
    for number, tried in labels.items():
        _put_shared_label(bench, number, tried)
    made += volumes_from_arrays(bench, source, layout=found, numbers=numbers)
    return made, found


def _put_notes(
    bench: IngestContext,
    seen: Mapping[int, ScannedFile],
    known: AnnotationResult,
    numbers: Mapping[Path, int],
) -> None:
    """Write the fate of annotation files, and of all files that are neither these nor a case's."""
    found = known.layout
    used = {path for case in found.cases for path in case.files}
    used |= {*known.used, *known.lost, *(found.arrays or ())}
    others = {numbers[path]: reason for path, reason in found.other.items()}
    _put_others(bench, seen, others, {numbers[path] for path in used})
    for path, measured in known.used.items():
        bench.ledger.put([numbers[path]], "accepted", "annotations", measured=measured)
    for path, reason in known.lost.items():
        bench.ledger.put([numbers[path]], "quarantined", reason)


def put_label(bench: IngestContext, number: int, volume: str, facts: Mapping[str, Any]) -> None:
    """Write the fate of a label file."""
    measured = facts.get("measured")
    if "reason" in facts:
        bench.ledger.put([number], "quarantined", facts["reason"], volume=volume, measured=measured)
        return
    reason = "label_resampled" if facts.get("resampled") else "label"
    reason = reason if facts["values"] else "label_empty"
    bench.ledger.put([number], "accepted", reason, volume=volume, measured=measured)


@dataclass(frozen=True)
class _VolumeTask:
    """A case and the id of the volume that it becomes."""

    case: LayoutCase
    name: str


def _put_shared_label(
    bench: IngestContext, number: int, tried: Iterable[tuple[str, Mapping[str, Any] | None]]
) -> None:
    """Write the fate of a label that several images share: accepted if it fits any of them."""
    known = [(volume, facts) for volume, facts in tried if facts is not None]
    if not known:
        bench.ledger.put([number], "quarantined", "label_without_image")
        return
    fitting = [(volume, facts) for volume, facts in known if "reason" not in facts]
    volume, facts = (fitting or known)[0]
    put_label(bench, number, volume, facts)


def _put_others(
    bench: IngestContext, seen: Mapping[int, ScannedFile], others: Mapping[int, str], used: set[int]
) -> None:
    """Give files that are no case their reason: the layout's, or what the file itself showed."""
    for number, one in seen.items():
        if number in used:
            continue
        said = others.get(number, "not_in_layout")
        own = (
            one.fate is not None and said in ("not_an_image", "not_in_layout") and one.reason not in _READABLE
        )
        fate = (one.fate if own else None) or "skipped"
        bench.ledger.put([number], fate, one.reason if own else said, measured=one.measured)


def _task(bench: IngestContext, work: _VolumeTask, known: AnnotationResult) -> dict[str, Any]:
    case, marks = work.case, known.marks.get(work.case.image)
    if marks is None and case.healthy:
        marks = []
    names, noted = {**known.layout.label_names, **bench.wishes.label_names}, None
    if marks is not None:
        numbers = {name: number for number, name in names.items()}
        renamed = {name: names[number] for number, name in known.layout.label_names.items()}
        marks = [{**mark, "name": renamed.get(mark["name"], mark["name"])} for mark in marks]
        noted = {"marks": marks, "numbers": numbers, "empty": not marks and known.outlined}
    return {
        "image": str(bench.file(case.image)),
        "label": None if case.label is None else str(bench.file(case.label)),
        "target": str(bench.staged(f"{work.name}.nii.gz")),
        "label_target": str(bench.staged(f"{work.name}.label.nii.gz")),
        "resample": bench.wishes.resample_labels,
        "spacing_mm": case.spacing_mm,
        "noted": noted,
        "boxed": list(names.items()) if known.layout.boxes_from_labels else None,
    }


def _accept(
    bench: IngestContext, work: _VolumeTask, *, facts: Mapping[str, Any], source: Path
) -> IngestedVolume:
    case, name = work.case, work.name
    patient = facts["image"]["pixels_sha256"] if case.subject_by_pixels else case.subject
    subject, study = bench.keys.key("subject", patient), bench.keys.key("study", case.study)
    label = facts["label"] if facts["label"] and "reason" not in facts["label"] else None
    repairs = (*facts["repairs"], *(["label_resampled"] if label and label.get("resampled") else []))
    picture = is_picture(case.image)
    volume = VolumeRecord(
        id=name,
        subject=subject,
        study=study,
        series=bench.keys.key("series", str(case.image.relative_to(source))),
        image=stored_path("volumes", subject, study, name),
        modality=case.modality,
        spatial_dims=2 if picture else 3,
        shape=tuple(facts["image"]["shape"]),
        spacing_mm=tuple(facts["image"]["spacing_mm"]),
        orientation=facts["image"]["orientation"],
        sha256=facts["image"]["sha256"],
        pixels_sha256=facts["image"]["pixels_sha256"],
        verdict="repaired" if repairs else "right",
        repairs=repairs,
        label=stored_path("labels", subject, study, name) if label else None,
        label_sha256=label["sha256"] if label else None,
        boxes=boxes_of(facts["boxes"]),
        target=case.target,
        group=None if case.group is None else bench.keys.key("group", case.group),
        tokens=tuple(token for token in VOCABULARY if token in case.tokens),
        flags={"spacing": "unknown"} if picture and case.spacing_mm is None else {},
    )
    staged_label = bench.staged(f"{name}.label.nii.gz") if label else None
    classes = tuple(label["values"]) if label else ()
    return IngestedVolume(volume, stem_of(case.image), bench.staged(f"{name}.nii.gz"), staged_label, classes)
