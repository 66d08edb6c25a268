"""Checks of a whole ingestion: labels that match nothing, missing patient information, unused labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from medmim.data.dataset.manifest import LedgerRow
from medmim.data.formats.annotations import OUTLINES_OVERLAP
from medmim.data.formats.case import NO_BACKGROUND
from medmim.data.formats.images import COLOUR, OF_GREY
from medmim.data.ingest.cases import DatasetLayout
from medmim.data.ingest.context import IngestedVolume, stem_of
from medmim.data.ingest.path_words import is_volume_name
from medmim.data.ingest.sources import Sources
from medmim.errors import counted

_TAIL = 10  # characters of a name that are shown: enough to match names, too few to identify a patient


_BACKGROUND = ("background", "bg")
_WHITE = 255
_USED_LABELS = ("label", "label_resampled")
_MAX_LISTED = 8
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
    layout: DatasetLayout | None, rows: Sequence[LedgerRow], made: Sequence[IngestedVolume]
) -> tuple[dict[str, Any], ...]:
    """Return warnings about labels that are not used and patients that nobody named."""
    warnings: list[dict[str, Any]] = []
    labels = sum(one.volume.label is not None for one in made)
    refused = sum(row.reason.startswith(("label_", "looks_like_label", "in_label")) for row in rows)
    refused += sum("_without_label_" in row.reason for row in rows)
    known = {path for case in layout.cases for path, _ in case.labels} if layout else set()
    unused = max(refused, len(known), layout.label_like if layout else 0)
    labels += sum(bool(case.labels) for case in layout.cases) if layout and not made else 0
    if not labels and unused:
        warnings.append({"kind": "no_label_used", "files": unused})
    if unused := sum(row.reason.startswith(_UNUSED_NOTES) for row in rows if row.reason != "unusable_array"):
        warnings.append({"kind": "annotations_not_used", "files": unused})
    warnings += _unread_entries([row.measured for row in rows if row.reason == "annotations"])
    if boxes := sum(int(row.measured.get("boxes_of_another_size", 0)) for row in rows):
        warnings.append({"kind": "boxes_of_another_size", "boxes": boxes})
    if overlaps := [int(row.measured[OUTLINES_OVERLAP]) for row in rows if OUTLINES_OVERLAP in row.measured]:
        warnings.append({"kind": "outlines_overlap", "images": len(overlaps), "voxels": sum(overlaps)})
    warnings += _unlabelled_contrasts(
        [(one.volume.subject, one.volume.label is not None) for one in made]
        or [(case.subject, bool(case.labels)) for case in (layout.cases if layout else ())]
    )
    warnings += _doubtful_codes(
        layout.label_names if layout else {}, [one.classes for one in made if one.volume.label is not None]
    )
    warnings += doubtful_labels([row.measured for row in rows if row.reason in _USED_LABELS])
    if layout and layout.regions:
        listed = ", ".join(f"{name}: {list(members)}" for name, members in layout.regions.items())
        warnings.append({"kind": "declared_regions", "regions": listed})
    if layout and layout.anonymous and len({one.volume.subject for one in made}) == len(made):
        warnings.append({"kind": "every_image_is_a_patient", "images": len(layout.cases)})
    if nameless := sum(row.reason.endswith("without_patient") for row in rows):
        warnings.append({"kind": "no_patient_id", "files": nameless})
    return tuple(warnings)


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
    for kind, key, unit in _DOUBTS_OF_FILES:
        if count := sum(int(one.get(key, 0)) for one in measured):
            found.append({"kind": kind, unit: count})
    return found


def _unlabelled_contrasts(images: Sequence[tuple[str, bool]]) -> list[dict[str, Any]]:
    """Return a warning if every labelled patient also has the same number of images without a label.

    Args:
        images: patient of each image, and whether the image has a label.
    """
    labelled = {subject for subject, has_label in images if has_label}
    without = Counter(subject for subject, has_label in images if not has_label and subject in labelled)
    if len(labelled) < 2 or set(without) != labelled or len(set(without.values())) > 1:
        return []
    return [{"kind": "contrast_without_label", "images": without.total(), "patients": len(labelled)}]


def _doubtful_codes(names: Mapping[int, str], cases: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return warnings about a background that is not 0, and masks of 0/1 in some files and 0/255 in others.

    Args:
        names: class names by label value.
        cases: label values of each volume, without 0.
    """
    background = [code for code, name in names.items() if code and name.casefold() in _BACKGROUND]
    found: list[dict[str, Any]] = [
        {"kind": "background_is_a_class", "code": str(code)} for code in background
    ]
    counts = Counter(code for own in cases for code in own)
    if counts.keys() == {1, _WHITE} and all(len(own) < 2 for own in cases):
        found.append({"kind": "masks_of_two_codes", "ones": counts[1], "whites": counts[_WHITE]})
    return found


def doubtful_labels(measured: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return warnings about labels without any 0, and about colours that stand for classes.

    Args:
        measured: measurements of each label that is used.
    """
    found: list[dict[str, Any]] = []
    if full := sum(NO_BACKGROUND in one for one in measured):
        found.append({"kind": "labels_without_background", "labels": full, "total": len(measured)})
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
        found.append({"kind": "colours_of_one_code", "listed": listed})
    elif any(key.startswith(OF_GREY) for one in measured for key in one):
        pairs = [f"{code} is {next(iter(own))}" for code, own in sorted(colours.items())[:_MAX_LISTED]]
        found.append({"kind": "coloured_labels", "listed": ", ".join(pairs), "example": str(min(colours))})
    return found


_TEXTS = {
    "labels_without_background": "{labels} of {total:label} without any 0, which stands for background: "
    "every voxel there belongs to a class; if another value is the background, leave it out of --set "
    "labels={{NAME: [VALUE]}} of medmim finetune segment, or renumber the labels",
    "coloured_labels": "labels are coloured pictures, and their classes are the grey values of the colours: "
    "{listed}; name them, as in --label-name {example}=NAME",
    "colours_of_one_code": "one label value stands for several colours in coloured label pictures: {listed}; "
    "each value becomes one class regardless of colour; if the colours are the classes, save labels with one "
    "number for each class",
    "images_without_perceptual_hash": "altered copies were not searched for among {missing:image} of "
    "{images}, which have no perceptual hash: very small, or ingested before 0.2.0; ingest the latter again",
    "background_is_a_class": "label {code} is named background, but 0 is the background in every label: "
    "{code} becomes a class, and the structure of value 0 is not trained; renumber the labels",
    "declared_regions": "dataset.json declares overlapping regions: the labels keep their values, and each "
    "value is a class; to train the regions, pass --set 'regions={{{regions}}}' to medmim finetune segment",
    "segments_overlap": "segments overlap in {files:file} of 3D Slicer: {voxels:voxel has|voxels have} the "
    "class of the smaller segment only; to keep all, save each segment as a file and pass --overlap regions",
    "outlines_overlap": "outlines of several classes overlap in {images:image}: {voxels:pixel has|pixels "
    "have} the class of the smaller one only; to keep all, save a mask for each class, and pass "
    "--overlap regions",
    "entries_not_used": "{entries:entry|entries} of annotation files not used: {reasons}; see the ledger",
    "images_not_found": "annotation files name {images:image} that the source lacks, or has under "
    "another name or several times: their annotations are not used",
    "classes_numbered": "names of {classes:class|classes} in annotation files are no plain words of up to 40 "
    "characters: they are called class 1, class 2, … in the order in which they occur",
    "boxes_without_class": "tables of boxes have no known column of classes, but {columns:column} of words: "
    "all boxes are of one class; if a column is their class, call it class",
    "masks_of_two_codes": "{ones:label has|labels have} the values 0 and 1, {whites} have 0 and 255, and "
    "none has both: they become two classes; if both mean the same, train with --set "
    "labels={{mask: [1, 255]}}",
    "no_label_used": "no label is used, although {files:file looks|files look} like labels: see the "
    "ledger for the reasons, or assign them with --role 'GLOB=label'",
    "annotations_not_used": "not used: {files:annotation file}, damaged, of an unknown kind or "
    "naming no image of this source; see the ledger",
    "contrast_without_label": "no label for {images:image} of {patients:patient}, although another "
    "image of each of these patients has one: if the labels apply to both, describe the layout in a YAML "
    "file and pass it to --as",
    "every_image_is_a_patient": "no patient information: each image ({images}) counts as a patient, "
    "so images of one patient may be in train and test; pass --subject-pattern or --subjects",
    "patients_by_two_rules": "the patients of {images:image} come from paths and those of {dicom} from "
    "PatientID: a patient with both counts as two; assign patients with --subjects or --subject-pattern",
    "boxes_of_another_size": "not used: {boxes:box|boxes} of pictures of another size, according to their "
    "annotation files; scale them to the pictures of the source",
    "no_patient_id": "no PatientID in {files:file}: each study counts as a patient; pass "
    "--subject-pattern or --subjects",
    "patients_contradict": "{patients:patient has|patients have} several names ({names}), birth dates "
    "({birth_dates}) or sexes ({sexes}) in their DICOM headers: read as {patients:patient} by PatientID "
    "or --subjects, but they may be {people:person|people} or more; separate them with --subjects or "
    "--subject-pattern",
    "patients_of_several_sites": "{patients:PatientID is|PatientIDs are} in folders of several sites: each "
    "counts as one patient; if they are different people, separate them with --subjects or --subject-pattern",
    "split_made": "the dataset has no {split} split: {patients} of its {train:training patient} now form "
    "it; pass --splits to choose them",
    "patients_in_two_sources": "same PatientID in this source and another: {patients:patient}, "
    "each counted as one person; if they are not, pass --separate-patients",
    "patients_look_alike": "identifiers of {patients:patient} differ from another only in case, "
    "punctuation or leading zeros, as pat-7 and PAT-07, and {divided:group} of them in several splits: "
    "if they are the same people, merge them with --subjects or --subject-pattern",
    "similar_images_under_two_subjects": "{images:image} of different patients are similar in "
    "{pairs:pair}, {divided} of them in two splits, so they may be copies (rescaled, cropped, mirrored, "
    "compressed): look at the volumes that --json lists; name one patient for both with --subjects",
    "similar_images_not_compared": "altered copies of images were not searched for: {images} images, the "
    "limit is {limit}",
}


class _Count(int):
    """Number whose format is a noun, with its plural where that does not end in s: `{n:file|files}`."""

    def __format__(self, nouns: str) -> str:
        return counted(int(self), *nouns.split("|")) if nouns else str(int(self))


def warning_text(warning: dict[str, Any]) -> str:
    """Return a warning of `dataset.json` as one sentence."""
    if text := _TEXTS.get(warning["kind"]):
        return text.format(
            **{key: _Count(one) if isinstance(one, int) else one for key, one in warning.items()}
        )
    splits = " and ".join(warning["splits"]) or "no split"
    patients = counted(len(warning["subjects"]), "patient")
    return f"same voxels under {patients}, in {splits}: {' '.join(warning['volumes'])}"


def _tails(names: Sequence[str]) -> str:
    shown = ", ".join(f"…{name[-_TAIL:]}" for name in names[:3])
    return f"{shown or 'none'}{', …' if len(names) > 3 else ''}"
