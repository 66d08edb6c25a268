"""Annotations of images: the image of each box, outline and class, and the class numbers in labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.data.formats.annotation_files import AnnotationFile, ImageAnnotation, read_annotation_file
from medmim.data.ingest.cases import DatasetLayout, LayoutCase
from medmim.data.ingest.context import READ_LIMITS, IngestContext


@dataclass(frozen=True)
class AnnotationResult:
    """A layout whose cases have their class and group, and the marks of each case.

    Attributes:
        layout: the layout with the classes and groups of the annotation files.
        marks: marks of each annotated image; an empty list if an annotation file names it without marks.
        used: counts for the ledger of each file that was read as annotations.
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
    """Read the annotation files of a layout and assign their marks, classes and groups to its cases."""
    tasks = [{"path": str(context.file(path)), "name": path.name} for path in layout.notes]
    answers = context.each("annotations", read_annotation_file, tasks, limits=READ_LIMITS)
    pairs = list(zip(layout.notes, answers, strict=True))
    lost = {path: answer.reason or "unusable" for path, answer in pairs if answer.value is None}
    found = [(path, AnnotationFile.model_validate(answer.value)) for path, answer in pairs if answer.value]
    if layout.promised:
        lost |= {path: "bad_annotations" for path, notes in found if not notes.kind}
    found = [(path, notes) for path, notes in found if notes.kind not in ("", "world_mm")]
    classes = next((notes.classes for _, notes in found if notes.kind == "classes"), [])
    index = _Index(source, layout.cases)
    noted: dict[Path, list[ImageAnnotation]] = {}
    used: dict[Path, dict[str, float]] = {}
    for path, notes in found:
        placed = [(index.find(path, one.image, yolo=notes.kind == "yolo"), one) for one in notes.images]
        for image, one in placed:
            if image is not None:
                noted.setdefault(image, []).append(_named(one, notes.kind, classes, layout.finding))
        if notes.kind == "classes" or any(image for image, _ in placed):
            used[path] = _measured(notes, placed)
    names = layout.label_names or _numbered(noted, classes)
    marks = {
        image: [mark.model_dump() for one in ones for mark in one.marks] for image, ones in noted.items()
    }
    cases = tuple(_with_notes(case, noted.get(case.image, [])) for case in layout.cases)
    return AnnotationResult(replace(layout, cases=cases, label_names=names), marks, used, lost)


class _Index:
    """Finds the image that an annotation names: by path, or by file name if that is unique."""

    def __init__(self, source: Path, cases: Sequence[LayoutCase]) -> None:
        self._source = source
        self._paths = {case.image.relative_to(source).as_posix(): case.image for case in cases}
        self._bare = {_bare(path): image for path, image in self._paths.items()}
        names = Counter(case.image.name for case in cases)
        stems = Counter(_bare(case.image.name) for case in cases)
        self._names = {case.image.name: case.image for case in cases if names[case.image.name] == 1}
        self._stems = {
            _bare(case.image.name): case.image for case in cases if stems[_bare(case.image.name)] == 1
        }

    def find(self, file: Path, name: str, *, yolo: bool) -> Path | None:
        """Return the image named `name` in the annotation `file`, or None."""
        folder = file.parent.relative_to(self._source)
        if yolo:  # labels/train/a.txt annotates images/train/a.png, or a.png in the same folder
            places = ["images" if part == "labels" else part for part in folder.parts]
            here = (PurePosixPath(*places) / name).as_posix()
            return self._bare.get(here) or self._stems.get(name)
        relative = PurePosixPath(name.replace("\\", "/"))
        here = (PurePosixPath(folder.as_posix()) / relative).as_posix()
        return self._paths.get(here) or self._names.get(relative.name)


def _bare(path: str) -> str:
    """Return a path without its extension."""
    return str(PurePosixPath(path).with_suffix(""))


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


def _with_notes(case: LayoutCase, noted: Sequence[ImageAnnotation]) -> LayoutCase:
    """Return the case with class and group; a group must stay in one split, so it replaces the patient."""
    target = next((one.target for one in noted if one.target), case.target)
    group = next((one.group for one in noted if one.group), case.group)
    subject = case.subject if group == case.group or group is None else f"group/{group}"
    return replace(case, target=target, group=group, subject=subject)


def _measured(
    notes: AnnotationFile, placed: Sequence[tuple[Path | None, ImageAnnotation]]
) -> dict[str, float]:
    return {
        "images": float(len(placed)),
        "images_not_found": float(sum(image is None for image, _ in placed)),
        "marks": float(sum(len(one.marks) for _, one in placed)),
        "marks_not_read": float(notes.unread),
    }
