"""Tables of boxes, classes, patients and splits, applied to the volumes that they name; label maps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.data.dataset.manifest import VolumeRecord
from medmim.data.formats.annotation_files import read_annotation_file
from medmim.data.formats.annotations import AnnotationFile, ImageAnnotation, box_records, split_of
from medmim.data.formats.case import place_marks
from medmim.data.formats.class_names import number_classes
from medmim.data.ingest.annotation_conflicts import refuse_contradictions, refuse_merged_classes
from medmim.data.ingest.annotations import measure_entries, zeros_dropped
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stem_of, stored_path
from medmim.errors import UsageError
from medmim.text_formats import SpreadsheetError, parse_csv, read_table_text

FINDING = "finding"
TABLE_SUFFIXES = (".csv", ".tsv")


def add_tables(
    context: IngestContext, made: Sequence[IngestedVolume], tables: Mapping[int, Path]
) -> list[IngestedVolume]:
    """Return the volumes with the boxes, classes, patients and splits of the tables.

    Args:
        tables: CSV files by number; their ledger rows count the entries.

    Raises:
        DataError: if tables contradict each other.
    """
    tasks = [{"path": str(context.file(path)), "name": path.name} for path in tables.values()]
    answers = context.each("tables", read_annotation_file, tasks, limits=READ_LIMITS)
    result = list(made)
    unread = [number for number, answer in zip(tables, answers, strict=True) if answer.value is None]
    reasons = {number: answer.reason for number, answer in zip(tables, answers, strict=True)}
    for number in unread:
        context.ledger.record([number], "quarantined", reasons[number] or "unusable")
    read = [AnnotationFile.model_validate(one.value) for one in answers if one.value]
    names = [tables[number].name for number in tables if number not in unread]
    refuse_merged_classes(list(zip(names, read, strict=True)))
    contents = number_classes(read)
    noted: dict[str, list[tuple[str, ImageAnnotation]]] = defaultdict(list)
    for number, table in zip([one for one in tables if one not in unread], contents, strict=True):
        index = _VolumeIndex(result)
        pairs = [(place, one) for one in table.images for place in index.find(one)]
        if not pairs:
            reason = (
                "table_without_image" if table.kind else "unusable_table" if table.tried else "not_an_image"
            )
            fate = "skipped" if reason == "not_an_image" else "quarantined"
            measured = zeros_dropped(table, index.find)
            context.ledger.record([number], fate, reason, measured=measured)  # type: ignore[arg-type]
            continue
        for place, one in pairs:
            noted[result[place].volume.id].append((tables[number].name, one))
        missing = sum(not index.find(one) for one in table.images)
        result, measured = _add_boxes(context, result, pairs)
        _add_facts(context, result, pairs)
        measured |= measure_entries(table, not_found=missing) | zeros_dropped(table, index.find)
        context.ledger.record([number], "accepted", "annotations", measured=measured)
    refuse_contradictions(noted, splits=context.options.splits is None)
    return result


def read_label_map(path: Path) -> dict[str, str]:
    """Read a CSV file with the columns label and series (or image).

    Raises:
        UsageError: if it cannot be read or lacks a column.
    """
    try:
        columns, rows = parse_csv(read_table_text(path), delimiters=",;\t")
        column = "series" if "series" in columns else "image"
        return {row["label"].strip(): stem_of(Path(row[column].strip())) for row in rows}
    except SpreadsheetError as error:
        raise UsageError(f"--label-map '{path}': {error}") from error
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"--label-map '{path}' cannot be read: expected CSV with the columns label and series (or image)"
        ) from error


class _VolumeIndex:
    """Finds the volumes of a series, or of the file that an entry names."""

    def __init__(self, made: Sequence[IngestedVolume]) -> None:
        self._made = made
        self._names: dict[str, list[int]] = defaultdict(list)
        for place, one in enumerate(made):
            for name in {one.name, PurePosixPath(one.path).name, stem_of(Path(one.path))} - {""}:
                self._names[name].append(place)

    def find(self, entry: ImageAnnotation) -> list[int]:
        """Return the places of the volumes; none if several files fit equally well."""
        relative = PurePosixPath(entry.image.replace("\\", "/"))
        found = self._names.get(entry.image) or self._names.get(relative.name)
        found = found or self._names.get(relative.name.removesuffix(".gz").rpartition(".")[0]) or []
        if len({self._made[place].path for place in found}) <= 1:
            return found  # one file, or all volumes of a series
        paths = {place: PurePosixPath(self._made[place].path) for place in found}
        folders = relative.parts[:-1]
        named = [
            place for place in found if folders and paths[place].parts[-len(folders) - 1 : -1] == folders
        ]
        named = named or [place for place in found if entry.split in map(split_of, paths[place].parts)]
        return named if len(named) == 1 else []


def _add_boxes(
    context: IngestContext, made: Sequence[IngestedVolume], pairs: Iterable[tuple[int, ImageAnnotation]]
) -> tuple[list[IngestedVolume], dict[str, float]]:
    """Return the volumes with these boxes, and counts for the ledger."""
    marked = [(place, one) for place, one in pairs if one.marks]
    named = [[mark.model_dump() | {"name": mark.name or FINDING} for mark in one.marks] for _, one in marked]
    files = [str(made[place].staged) for place, _ in marked]
    tasks = [{"image": file, "marks": marks} for file, marks in zip(files, named, strict=True)]
    answers = context.each("boxes", place_marks, tasks, limits=READ_LIMITS)
    result = list(made)
    total: Counter[str] = Counter()
    for (place, _), answer in zip(marked, answers, strict=True):
        facts = answer.value or {"boxes": [], "measured": {"boxes_lost": 1.0}}
        volume = result[place].volume
        boxes = (*volume.boxes, *box_records(facts["boxes"]))
        result[place] = replace(result[place], volume=volume.model_copy(update={"boxes": boxes}))
        total.update(facts["measured"])
    if outlines := sum(mark.is_outlined for _, one in marked for mark in one.marks):
        total["outlines_as_boxes"] = outlines
    return result, dict(total)


def _add_facts(
    context: IngestContext, made: list[IngestedVolume], pairs: Iterable[tuple[int, ImageAnnotation]]
) -> None:
    """Set class, split and patient of volumes where a table gives them."""
    for place, one in pairs:
        volume = made[place].volume
        facts: dict[str, Any] = {"target": one.target, "targets": one.targets or None, "split": one.split}
        if one.group is not None:
            facts |= _moved(volume, context.keys.key("subject", f"group/{one.group}"))
            facts["loose_subject"] = context.keys.loose_key(f"group/{one.group}")
        known = {name: value for name, value in facts.items() if value is not None}
        made[place] = replace(made[place], volume=volume.model_copy(update=known))


def _moved(volume: VolumeRecord, subject: str) -> dict[str, str]:
    """Return subject and paths of a volume that belongs to another patient."""
    moved = {"subject": subject, "image": stored_path("volumes", subject, volume.study, volume.id)}
    if volume.label is not None:
        moved["label"] = stored_path("labels", subject, volume.study, volume.id)
    return moved
