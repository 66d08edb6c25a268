"""Tables of findings in world millimetres become boxes of the volumes whose series they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmim.data.formats.annotation_files import AnnotationNotes, ImageAnnotation, read_annotation_notes
from medmim.data.formats.annotations import boxes_of
from medmim.data.formats.case import place_marks
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume

FINDING = "finding"


def with_tables(
    bench: IngestContext, made: Sequence[IngestedVolume], tables: Mapping[int, Path]
) -> list[IngestedVolume]:
    """Give volumes the boxes that tables name; each table gets its fate with the number of its boxes.

    Args:
        bench: where to work.
        made: all volumes.
        tables: CSV files by number.
    """
    tasks = [{"path": str(bench.file(path)), "name": path.name} for path in tables.values()]
    answers = bench.each("tables", read_annotation_notes, tasks, limits=READ_LIMITS)
    result = list(made)
    for number, answer in zip(tables, answers, strict=True):
        notes = AnnotationNotes.model_validate(answer.value or {})
        if not any(one.marks for one in notes.images):
            fate, reason = ("skipped", "not_an_image") if answer.value else ("quarantined", answer.reason)
            bench.ledger.put([number], fate, reason or "unusable")  # type: ignore[arg-type]
            continue
        result, measured = _place(bench, result, notes.images)
        measured["marks_not_read"] = float(notes.unread)
        bench.ledger.put([number], "accepted", "annotations", measured=measured)
    return result


def _place(
    bench: IngestContext, made: Sequence[IngestedVolume], noted: Sequence[ImageAnnotation]
) -> tuple[list[IngestedVolume], dict[str, float]]:
    places: dict[str, list[int]] = {}
    for place, one in enumerate(made):
        places.setdefault(one.name, []).append(place)
    pairs = [(place, one) for one in noted for place in places.get(one.image, ())]
    tasks = [{"image": str(made[place].staged), "marks": _named(one)} for place, one in pairs]
    answers = bench.each("boxes", place_marks, tasks, limits=READ_LIMITS)
    result = list(made)
    total = {"images": float(len(noted)), "images_not_found": 0.0}
    total["images_not_found"] += sum(one.image not in places for one in noted)
    for (place, _), answer in zip(pairs, answers, strict=True):
        facts = answer.value or {"boxes": [], "measured": {"boxes_lost": 1.0}}
        volume = result[place].volume
        boxes = (*volume.boxes, *boxes_of(facts["boxes"]))
        result[place] = replace(result[place], volume=volume.model_copy(update={"boxes": boxes}))
        for name, value in facts["measured"].items():
            total[name] = total.get(name, 0.0) + value
    return result, total


def _named(noted: ImageAnnotation) -> list[dict[str, Any]]:
    return [mark.model_dump() | {"name": mark.name or FINDING} for mark in noted.marks]
