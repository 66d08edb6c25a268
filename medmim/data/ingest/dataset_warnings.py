"""Checks of a whole ingestion: labels that match nothing, missing patient information, unused labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medmim.data.dataset.manifest import LedgerRow
from medmim.data.dicom.slices import PHOTOMETRIC
from medmim.data.formats.annotations import OUTLINES_OVERLAP
from medmim.data.formats.case import AT_EDGES, NO_BACKGROUND
from medmim.data.formats.images import COLOUR, OF_GREY
from medmim.data.ingest.annotations import CLASSES_FROM, NO_CLASSES_FROM
from medmim.data.ingest.cases import DatasetLayout
from medmim.data.ingest.context import IngestedVolume, stem_of
from medmim.data.ingest.layout_doubts import layout_doubts, mixed_units, unlabelled_contrasts
from medmim.data.ingest.path_words import is_volume_name
from medmim.data.ingest.sources import Sources
from medmim.errors import counted

_TAIL = 10  # characters of a name that are shown: enough to match names, too few to identify a patient


_BACKGROUND = ("background", "bg")
_WHITE = 255
_MANY_CLASSES = 10
_USED_LABELS = ("label", "label_resampled")
_MAX_LISTED = 8
_LOST_PARTS = {
    "contours_outside": "contours outside the image or between its slices",
    "outside_voxels": "voxels outside the image",
    "hidden_segments": "segments hidden by smaller ones",
}
_ENTRIES = "entries_"
_KEPT_ENTRIES = ("several_classes", "no_class", "unknown_category")  # their values or boxes are kept
_DOUBTS_OF_FILES = (
    ("images_not_found", "images_not_found", "images"),
    ("classes_numbered", "classes_numbered", "classes"),
    ("boxes_without_class", "columns_of_words", "columns"),
)
_UNUSED_NOTES = ("table_without_image", "annotations_without_image", "unusable_")


def describe_unmatched_labels(
    sources: Sources, rows: Sequence[LedgerRow], made: Sequence[IngestedVolume]
) -> str:
    """Return what is wrong if no file of the labels folder belongs to an image; "" if any does.

    Args:
        sources: the source, with the labels folder if the user gave one.
    """
    if sources.labels is None:
        return ""
    tried = [row for row in rows if row.reason.startswith("label")]
    if any(row.reason != "label_without_image" for row in tried) or any(one.volume.boxes for one in made):
        return ""
    found = [one.path for one in sources.entries if one.path.is_relative_to(sources.labels)]
    names = [stem_of(path) for path in found if is_volume_name(path.name)] or [path.name for path in found]
    expected = sorted({one.name for one in made})
    return (
        f"none of {counted(len(names), 'label file')} belongs to an image: expected names that end like "
        f"{_tails(expected)} (the SeriesInstanceUID or the image name), found {_tails(names)}; rename them, "
        "or pass --label-map table.csv (columns label, series)"
    )


def layout_warnings(
    layout: DatasetLayout | None,
    rows: Sequence[LedgerRow],
    made: Sequence[IngestedVolume],
    *,
    ignore_label: int | None = None,
) -> tuple[dict[str, Any], ...]:
    """Return warnings about labels, annotations and patients that are doubtful or not used.

    Args:
        ignore_label: value of voxels that nobody annotated; it is no class.
    """
    warnings: list[dict[str, Any]] = []
    labels = sum(one.volume.label is not None for one in made)
    refused = sum(row.reason.startswith(("label_", "looks_like_label", "in_label")) for row in rows)
    refused += sum("_without_label_" in row.reason for row in rows)
    known = {path for case in layout.cases for path, _ in case.labels} if layout else set()
    unused = max(refused, len(known), layout.label_like if layout else 0)
    labels += sum(bool(case.labels) for case in layout.cases) if layout and not made else 0
    if not labels and unused:
        warnings.append({"kind": "no_label_used", "files": unused})
    warnings += _unused_tables(rows)
    warnings += _unread_entries([row.measured for row in rows if row.reason == "annotations"])
    if boxes := sum(int(row.measured.get("boxes_of_another_size", 0)) for row in rows):
        warnings.append({"kind": "boxes_of_another_size", "boxes": boxes})
    if overlaps := [int(row.measured[OUTLINES_OVERLAP]) for row in rows if OUTLINES_OVERLAP in row.measured]:
        warnings.append({"kind": "outlines_overlap", "images": len(overlaps), "voxels": sum(overlaps)})
    warnings += _classes_of_single_images(made)
    warnings += unlabelled_contrasts(layout, made)
    labelled = [one for one in made if one.volume.label is not None]
    codes = [[code for code in one.classes if code != ignore_label] for one in labelled]
    warnings += _doubtful_codes(layout.label_names if layout else {}, codes)
    warnings += doubtful_labels([row.measured for row in rows if row.reason in _USED_LABELS])
    if layout and layout.regions:
        listed = ", ".join(f"{name}: {list(members)}" for name, members in layout.regions.items())
        warnings.append({"kind": "declared_regions", "regions": listed})
    warnings += [*mixed_units(made), *_inverted_display(made)]
    warnings += layout_doubts(layout.cases if layout else ())
    if layout and layout.anonymous and len({one.volume.subject for one in made}) == len(made):
        warnings.append({"kind": "every_image_is_a_patient", "images": len(made)})
    if nameless := sum(row.reason.endswith("without_patient") for row in rows):
        warnings.append({"kind": "no_patient_id", "files": nameless})
    return tuple(warnings)


def _unused_tables(rows: Sequence[LedgerRow]) -> list[dict[str, Any]]:
    """Return warnings about annotation files, spreadsheets and names of images that are not used."""
    notes = sum(row.reason.startswith(_UNUSED_NOTES) for row in rows if row.reason != "unusable_array")
    sheets = sum(row.reason == "spreadsheet" for row in rows)
    zeros = sum(int(row.measured.get("zeros_dropped", 0)) for row in rows)
    counts = {"annotations_not_used": notes, "spreadsheets_not_read": sheets, "zeros_dropped": zeros}
    return [{"kind": kind, "files": count} for kind, count in counts.items() if count]


def _inverted_display(made: Sequence[IngestedVolume]) -> list[dict[str, Any]]:
    """Return a warning about images that viewers show inverted, whose values need not be densities."""
    found = [one for one in made if PHOTOMETRIC in one.volume.flags and one.volume.modality != "CT"]
    return [{"kind": "inverted_display", "volumes": len(found), "total": len(made)}] if found else []


def _classes_of_single_images(made: Sequence[IngestedVolume]) -> list[dict[str, Any]]:
    """Return a warning if classes are so many that they may be numbers, names or patients."""
    targets = [one.volume.target for one in made if one.volume.target is not None]
    count = len(set(targets))
    doubtful = count > max(_MANY_CLASSES, len(targets) / 2)
    return [{"kind": "classes_of_single_images", "classes": count, "images": len(targets)}] * doubtful


def _unread_entries(measured: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return warnings about entries of annotation files that are not used, or whose class is not kept.

    Args:
        measured: measurements of each annotation file.
    """
    found: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    for one in measured:
        entries = {
            key.removeprefix(_ENTRIES): int(count) for key, count in one.items() if key.startswith(_ENTRIES)
        }
        reasons.update({reason: count for reason, count in entries.items() if reason not in _KEPT_ENTRIES})
    if reasons:
        listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        found.append({"kind": "entries_not_used", "entries": reasons.total(), "reasons": listed})
    for used in sorted({key for one in measured for key in one if key.startswith(CLASSES_FROM)}):
        tables = [one for one in measured if used in one]
        others = sorted({key for one in tables for key in one if key.startswith(NO_CLASSES_FROM)})
        listed = ", ".join(f"'{key.removeprefix(NO_CLASSES_FROM)}'" for key in others)
        kind = "two_columns_of_classes" if others else "doubtful_column_of_classes"
        found.append({"kind": kind, "used": used.removeprefix(CLASSES_FROM), "others": listed})
    for kind, key, unit in _DOUBTS_OF_FILES:
        if count := sum(int(one.get(key, 0)) for one in measured):
            found.append({"kind": kind, unit: count})
    return found


def _doubtful_codes(names: Mapping[int, str], cases: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return warnings about a background that is not 0, and about 255, which may be white or no class at all.

    Args:
        names: class names by label value.
        cases: label values of each volume, without 0.
    """
    background = [code for code, name in names.items() if code and name.casefold() in _BACKGROUND]
    found: list[dict[str, Any]] = [
        {"kind": "background_is_a_class", "code": str(code)} for code in background
    ]
    counts = Counter(code for own in cases for code in own)
    others = counts.keys() - {_WHITE}
    beside = any(_WHITE in own and len(own) > 1 for own in cases) and _WHITE not in names
    if beside and others == set(range(1, len(others) + 1)):
        found.append({"kind": "white_is_a_class", "labels": counts[_WHITE]})
    if counts.keys() == {1, _WHITE} and all(len(own) < 2 for own in cases):
        found.append({"kind": "masks_of_two_codes", "ones": counts[1], "whites": counts[_WHITE]})
    return found


def doubtful_labels(measured: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return warnings about labels without any 0, with strange values, lost parts, or colours for classes.

    Args:
        measured: measurements of each label that is used.
    """
    found: list[dict[str, Any]] = []
    if full := sum(NO_BACKGROUND in one for one in measured):
        found.append({"kind": "labels_without_background", "labels": full, "total": len(measured)})
    if smoothed := sum(AT_EDGES in one for one in measured):
        found.append({"kind": "labels_look_smoothed", "labels": smoothed})
    lost = {key: sum(int(one.get(key, 0)) for one in measured) for key in _LOST_PARTS}
    if any(lost.values()):
        labels = sum(bool(one.keys() & _LOST_PARTS.keys()) for one in measured)
        listed = ", ".join(f"{_LOST_PARTS[key]} {count}" for key, count in lost.items() if count)
        found.append({"kind": "label_parts_lost", "labels": labels, "listed": listed})
    return [*found, *_coloured_labels(measured)]


def _coloured_labels(measured: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return a warning about label values that stand for colours."""
    colours: dict[int, Counter[str]] = {}
    for one in measured:
        for key, colour in one.items():
            if key.startswith(COLOUR):
                code = int(key.rpartition("_")[2])
                colours.setdefault(code, Counter())[f"#{int(colour):06x}"] += 1
    several = {code: own for code, own in sorted(colours.items()) if len(own) > 1}
    if several:
        listed = "; ".join(
            f"{code} is " + " and ".join(f"{colour} in {counted(n, 'label')}" for colour, n in own.items())
            for code, own in list(several.items())[:_MAX_LISTED]
        )
        return [{"kind": "colours_of_one_code", "listed": listed}]
    if any(key.startswith(OF_GREY) for one in measured for key in one):
        pairs = [f"{code} is {next(iter(own))}" for code, own in sorted(colours.items())[:_MAX_LISTED]]
        return [{"kind": "coloured_labels", "listed": ", ".join(pairs), "example": str(min(colours))}]
    return []


def _tails(names: Sequence[str]) -> str:
    shown = ", ".join(f"…{name[-_TAIL:]}" for name in names[:3])
    return f"{shown or 'none'}{', …' if len(names) > 3 else ''}"
