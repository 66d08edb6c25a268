"""Tables of findings in world millimetres, converted to boxes of the volumes whose series they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmim.data.formats.annotation_files import AnnotationFile, ImageAnnotation, read_annotation_file
from medmim.data.formats.annotations import box_records
from medmim.data.formats.case import place_marks
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume

FINDING = "finding"


def add_table_boxes(
    context: IngestContext, made: Sequence[IngestedVolume], tables: Mapping[int, Path]
) -> list[IngestedVolume]:
    """Return the volumes with the boxes of the tables; the ledger row of a table counts its boxes.

    Args:
        context: of the ingestion.
        made: all volumes.
        tables: CSV files by number.
    """
    tasks = [{"path": str(context.file(path)), "name": path.name} for path in tables.values()]
    answers = context.each("tables", read_annotation_file, tasks, limits=READ_LIMITS)
    result = list(made)
    for number, answer in zip(tables, answers, strict=True):
        notes = AnnotationFile.model_validate(answer.value or {})
        if not any(one.marks for one in notes.images):
            fate, reason = ("skipped", "not_an_image") if answer.value else ("quarantined", answer.reason)
            context.ledger.record([number], fate, reason or "unusable")  # type: ignore[arg-type]
            continue
        result, measured = _place(context, result, notes.images)
        measured["marks_not_read"] = float(notes.unread)
        context.ledger.record([number], "accepted", "annotations", measured=measured)
    return result


def _place(
    context: IngestContext, made: Sequence[IngestedVolume], annotations: Sequence[ImageAnnotation]
) -> tuple[list[IngestedVolume], dict[str, float]]:
    """Return the volumes with these boxes, and counts for the ledger."""
    places: dict[str, list[int]] = {}
    for place, one in enumerate(made):
        places.setdefault(one.name, []).append(place)
    pairs = [(place, one) for one in annotations for place in places.get(one.image, ())]
    tasks = [{"image": str(made[place].staged), "marks": _named_marks(one)} for place, one in pairs]
    answers = context.each("boxes", place_marks, tasks, limits=READ_LIMITS)
    result = list(made)
    missing = sum(one.image not in places for one in annotations)
    total: Counter[str] = Counter()
    for (place, _), answer in zip(pairs, answers, strict=True):
        facts = answer.value or {"boxes": [], "measured": {"boxes_lost": 1.0}}
        volume = result[place].volume
        boxes = (*volume.boxes, *box_records(facts["boxes"]))
        result[place] = replace(result[place], volume=volume.model_copy(update={"boxes": boxes}))
        total.update(facts["measured"])
    return result, {"images": float(len(annotations)), "images_not_found": float(missing), **total}


def _named_marks(annotation: ImageAnnotation) -> list[dict[str, Any]]:
    return [mark.model_dump() | {"name": mark.name or FINDING} for mark in annotation.marks]
