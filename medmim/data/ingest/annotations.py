"""Annotations of images: the image of each box, outline and class, and the class numbers in labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.data.dataset.manifest import Split
from medmim.data.formats.annotation_files import read_annotation_file
from medmim.data.formats.annotations import AnnotationFile, ImageAnnotation, split_of
from medmim.data.formats.class_names import number_classes
from medmim.data.ingest.annotation_conflicts import (
    agreed_classes,
    refuse_contradictions,
    refuse_merged_classes,
)
from medmim.data.ingest.cases import DatasetLayout, LayoutCase
from medmim.data.ingest.context import READ_LIMITS, IngestContext
from medmim.text_formats import names_without_zeros

CLASSES_FROM, NO_CLASSES_FROM = "classes_from_", "no_classes_from_"  # and the name of a known column


@dataclass(frozen=True)
class AnnotationResult:
    """A layout whose cases have their class and group, and the marks of each case.

    Attributes:
        layout: the layout with the classes and groups of the annotation files.
        marks: marks of each annotated image; an empty list if an annotation file names it without marks.
        used: counts for the ledger of each file that was read as annotations, or names no image.
        lost: reason of each annotation file that cannot be read.
    """

    layout: DatasetLayout
    marks: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)
    used: dict[Path, dict[str, float]] = field(default_factory=dict)
    lost: dict[Path, str] = field(default_factory=dict)

    @property
    def outlined(self) -> bool:
        """Whether the dataset has outlines; an annotated image without any then has an empty label."""
        return any(mark["outlines"] or mark["runs"] for marks in self.marks.values() for mark in marks)


def annotate(context: IngestContext, source: Path, layout: DatasetLayout) -> AnnotationResult:
    """Read the annotation files of a layout and assign their marks, classes and groups to its cases.

    Raises:
        DataError: if annotation files contradict each other.
    """
    found, lost = _read_notes(context, source, layout)
    classes = agreed_classes(found)
    index = _CaseIndex(source, layout.cases)
    noted: dict[Path, list[tuple[str, ImageAnnotation]]] = {}
    used: dict[Path, dict[str, float]] = {}
    listed = index.listed_splits(found)
    splits = index.splits(found) | dict(listed)
    for path, notes in found:
        placed = [(index.find(path, one), one) for one in notes.images]
        if notes.kind == "list":
            used |= {path: _measured(notes, placed)} if any(image in splits for image, _ in placed) else {}
            continue
        for image, one in placed:
            if image is not None:
                named = _named(one, notes.kind, classes, layout.finding)
                noted.setdefault(image, []).append((path.relative_to(source).as_posix(), named))
        zeros = zeros_dropped(notes, partial(index.find, path))
        if notes.kind == "classes" or any(image for image, _ in placed):
            used[path] = _measured(notes, placed) | zeros
        elif any(one.marks for one in notes.images):
            lost[path] = "annotations_without_image"
            used[path] = zeros
    refuse_contradictions(noted, listed, splits=context.options.splits is None)
    annotations = {image: [one for _, one in ones] for image, ones in noted.items()}
    names = layout.label_names or _numbered(annotations, classes)
    marks = {
        image: [mark.model_dump() for one in ones for mark in one.marks]
        for image, ones in annotations.items()
    }
    cases = tuple(
        _with_notes(case, annotations.get(case.image, []), splits.get(case.image)) for case in layout.cases
    )
    return AnnotationResult(replace(layout, cases=cases, label_names=names), marks, used, lost)


def _read_notes(
    context: IngestContext, source: Path, layout: DatasetLayout
) -> tuple[list[tuple[Path, AnnotationFile]], dict[Path, str]]:
    """Return the annotation files with their content, and the reason of each that cannot be read."""
    tasks = [
        {"path": str(context.file(path)), "name": path.relative_to(source).as_posix()}
        for path in layout.notes
    ]
    answers = context.each("annotations", read_annotation_file, tasks, limits=READ_LIMITS)
    pairs = list(zip(layout.notes, answers, strict=True))
    lost = {path: answer.reason or "unusable" for path, answer in pairs if answer.value is None}
    found = [(path, AnnotationFile.model_validate(answer.value)) for path, answer in pairs if answer.value]
    lost |= {path: f"unusable_{notes.tried}" for path, notes in found if notes.tried}
    if layout.promised:
        lost |= {path: "bad_annotations" for path, notes in found if not notes.kind}
    read = [(path, notes) for path, notes in found if notes.kind not in ("", "world_mm")]
    refuse_merged_classes([(path.relative_to(source).as_posix(), notes) for path, notes in read])
    found = list(zip([path for path, _ in read], number_classes([notes for _, notes in read]), strict=True))
    return found, lost


class _CaseIndex:
    """Finds the images that annotation files name, by path, file name or name without suffix."""

    def __init__(self, source: Path, cases: Sequence[LayoutCase]) -> None:
        self._source = source
        self._paths = {case.image: case.image.relative_to(source) for case in cases}
        self._names: dict[str, list[Path]] = defaultdict(list)
        for image in self._paths:
            for name in {image.name, _bare(image.name)}:
                self._names[name].append(image)

    def find(self, file: Path, one: ImageAnnotation) -> Path | None:
        """Return the image that an entry of an annotation file names; None if there is none, or several fit.

        Of several images with that name, one in the folder that the entry names is preferred, or next to the
        file (labels/train/a.txt annotates images/train/a.png), or in a folder named like the entry's split.
        """
        relative = PurePosixPath(one.image.replace("\\", "/"))
        candidates = self._names.get(relative.name) or self._names.get(_bare(relative.name)) or []
        folder = file.parent.relative_to(self._source)
        beside = Path(*("images" if part == "labels" else part for part in folder.parts))
        preferences: list[Callable[[Path], bool]] = [
            lambda path: path.parent == folder / relative.parent,
            lambda path: path.parent == beside / relative.parent,
            lambda path: path.parent == Path(relative.parent),
            lambda path: str(path.parent).endswith(str(relative.parent)) and len(relative.parts) > 1,
            lambda path: one.split is not None and one.split in map(split_of, path.parts),
            lambda path: True,
        ]
        for fits in preferences:
            matches = [image for image in candidates if fits(self._paths[image])]
            if len(matches) == 1:
                return matches[0]
        return None

    def splits(self, found: Sequence[tuple[Path, AnnotationFile]]) -> dict[Path, Split]:
        """Return the split of the images in the folders that a dataset names for its splits."""
        return {
            image: split
            for place, split in _declared_splits(found)
            for image, path in self._paths.items()
            if _contains(path.parts, place)
        }

    def listed_splits(self, found: Sequence[tuple[Path, AnnotationFile]]) -> list[tuple[Path, Split]]:
        """Return the images of lists with the split that data.yaml gives the list, or its name."""
        places = _declared_splits(found)
        pairs: list[tuple[Path, Split]] = []
        for file, notes in found:
            named = next((split for place, split in places if PurePosixPath(place).name == file.name), None)
            for one in notes.images if notes.kind == "list" else ():
                image, split = self.find(file, one), named or one.split
                if image is not None and split is not None:
                    pairs.append((image, split))
        return pairs


def _declared_splits(found: Sequence[tuple[Path, AnnotationFile]]) -> list[tuple[str, Split]]:
    """Return the places that data.yaml gives one split; `train: images, val: images` gives none."""
    declared = [pair for _, notes in found for pair in notes.splits.items()]
    places = [(place, split) for split, listed in declared for place in listed]
    counts = Counter(place for place, _ in set(places))
    return [pair for pair in places if counts[pair[0]] == 1]


def _contains(parts: Sequence[str], place: str) -> bool:
    """Return whether a path lies in a folder; the first parts of an absolute folder may be unknown."""
    wanted = [part for part in PurePosixPath(place).parts if part not in ("/", ".", "..")]
    wanted = wanted[-2:] if place.startswith("/") else wanted
    count = len(wanted)
    return bool(wanted) and any(
        list(parts[start : start + count]) == wanted for start in range(len(parts) - count + 1)
    )


def _bare(name: str) -> str:
    """Return a file name without its suffix; .nii.gz is one suffix."""
    return (
        PurePosixPath(name.removesuffix(".gz")).stem if name.endswith(".nii.gz") else PurePosixPath(name).stem
    )


def _named(noted: ImageAnnotation, kind: str, classes: Sequence[str], finding: str) -> ImageAnnotation:
    """Return the annotation with a class name for every mark; YOLO files have numbers, some tools nothing."""
    marks = []
    for mark in noted.marks:
        name = mark.name or finding
        if kind == "yolo":
            number = int(mark.name)
            name = classes[number] if number < len(classes) else f"class {number}"
        marks.append(mark.model_copy(update={"name": name}))
    return noted.model_copy(update={"marks": marks})


def _numbered(noted: Mapping[Path, Iterable[ImageAnnotation]], classes: Sequence[str]) -> dict[int, str]:
    """Number the classes from 1, in the order that the dataset declares, else by name."""
    seen = {mark.name for ones in noted.values() for one in ones for mark in one.marks}
    known = [name for name in dict.fromkeys(classes) if name]
    return dict(enumerate([*known, *sorted(seen - set(known))], start=1))


def _with_notes(case: LayoutCase, noted: Sequence[ImageAnnotation], split: Split | None) -> LayoutCase:
    """Return the case with class, group and split; a group must stay in one split, so it is the patient."""
    target = next((one.target for one in noted if one.target), case.target)
    group = next((one.group for one in noted if one.group), case.group)
    split = next((one.split for one in noted if one.split), split) or case.split
    subject = case.subject if group == case.group or group is None else f"group/{group}"
    targets = {name: value for one in noted for name, value in one.targets.items()}
    return replace(case, target=target, targets=targets, group=group, subject=subject, split=split)


def zeros_dropped(notes: AnnotationFile, find: Callable[[ImageAnnotation], object]) -> dict[str, float]:
    """Return the number of images that are only found with leading zeros, as 007 for 7, for the ledger."""
    names = [one.image for one in notes.images]
    count = names_without_zeros(names, lambda name: find(ImageAnnotation(image=name)))
    return {"zeros_dropped": float(count)} if count else {}


def _measured(
    notes: AnnotationFile, placed: Sequence[tuple[Path | None, ImageAnnotation]]
) -> dict[str, float]:
    return measure_entries(notes, not_found=sum(image is None for image, _ in placed)) | {
        "marks": float(sum(len(one.marks) for _, one in placed))
    }


def measure_entries(notes: AnnotationFile, *, not_found: int) -> dict[str, float]:
    """Return the measurements of an annotation file for the ledger.

    Args:
        not_found: number of its images that are not in the source.
    """
    doubts = {"classes_numbered": notes.numbered_classes, "columns_of_words": notes.unread_columns}
    for used, others in notes.class_columns.items():
        doubts |= {CLASSES_FROM + used: 1, **{f"{NO_CLASSES_FROM}{other}": 1 for other in others}}
    return {
        "images": float(len(notes.images)),
        "images_not_found": float(not_found),
        "marks_not_read": float(notes.unread),
        **{f"entries_{reason}": float(count) for reason, count in sorted(notes.faults.items())},
        **{name: float(count) for name, count in doubts.items() if count},
    }
