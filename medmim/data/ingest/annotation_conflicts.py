"""Annotation files that contradict each other: about the class, patient or split of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import Split
from medmim.data.formats.annotations import AnnotationFile, ImageAnnotation
from medmim.data.formats.class_names import names_in
from medmim.data.ingest.infer_roles import AmbiguousLayoutError
from medmim.errors import DataError, counted

_REMEDY = "exclude the files that do not hold with --role 'GLOB=skip'"


def refuse_contradictions(
    noted: Mapping[Any, Sequence[tuple[str, ImageAnnotation]]],
    listed: Sequence[tuple[Any, Split]] = (),
    *,
    splits: bool = True,
) -> None:
    """Stop if annotation files give an image two classes, two patients or two splits.

    Args:
        noted: annotations of each image, each with the name of its file.
        listed: images of lists such as train.txt, with their split.
        splits: whether the splits of the files are used.

    Raises:
        DataError: with the number of images.
    """
    classes = [_values(ones, "target") for ones in noted.values()]
    if several := [found for found in classes if len(found) > 1]:
        shown = " and ".join(f"'{name}' in '{file}'" for name, file in sorted(several[0].items())[:2])
        raise AmbiguousLayoutError(
            f"{counted(len(several), 'image')} with different classes in two annotation files, such as "
            f"{shown}, of which one holds",
            "the files give classes of different kinds, or an image has several",
            f"{_REMEDY}, or write all classes into one table (a|b)",
        )
    groups = [_values(ones, "group") for ones in noted.values()]
    if divided := [found for found in groups if len(found) > 1]:
        shown = " and ".join(f"'{file}'" for file in sorted(set(divided[0].values()))[:2])
        raise AmbiguousLayoutError(
            f"{counted(len(divided), 'image')} with different patients in two annotation files, such as in "
            f"{shown}, of which one holds",
            "the files use different identifiers of one patient",
            f"{_REMEDY}, or pass --subjects table.csv (columns file, subject)",
        )
    own = [(image, one.split) for image, ones in noted.items() for _, one in ones if one.split]
    images = [image for image, _ in {*listed, *own}]
    if splits and (count := len(images) - len(set(images))):
        raise DataError(
            f"annotation files or lists such as train.txt put {counted(count, 'image')} into two splits: "
            f"expected each in one; {_REMEDY}, or pass --splits",
            reason="split_overlap",
        )


def refuse_merged_classes(files: Sequence[tuple[str, AnnotationFile]]) -> None:
    """Stop if two categories of a file have one name, or two names of classes differ in case only.

    Args:
        files: content of each annotation file as it was read, with its name.

    Raises:
        DataError: with both ids or names; they would become one class.
    """
    known: dict[str, tuple[str, str]] = {}
    yolo = [one for _, file in files if file.kind == "yolo" for one in file.images]
    numbers = {mark.name for one in yolo for mark in one.marks}
    for path, file in files:
        for name, ids in file.shared_names.items():
            raise DataError(
                f"categories {' and '.join(ids)} of '{path}' are all named '{name}': expected a name for "
                "each; rename them, or give the annotations of one class one category_id",
                reason="classes_alike",
            )
        named = [name for number, name in enumerate(file.classes) if str(number) in numbers]
        groups = [[one for one in named if one.lower() == name.lower()] for name in named if name]
        if alike := next((group for group in groups if len(group) > 1), None):
            raise DataError(
                f"the classes '{alike[0]}' and '{alike[1]}' of '{path}' have one name, apart from case: "
                "expected a name for each number; rename one",
                reason="classes_alike",
            )
        images = () if file.kind == "yolo" else file.images
        for name in (name for one in images for name in names_in(one)):
            other, place = known.setdefault(name.lower(), (name, path))
            if other != name:
                raise DataError(
                    f"the classes '{other}' in '{place}' and '{name}' in '{path}' differ in case only: "
                    "expected one spelling of each class; write them alike if they are one, else rename one",
                    reason="classes_alike",
                )


def refuse_equal_names(names: Mapping[int, str]) -> None:
    """Raise DataError if two label values have one name, apart from case: one of them would be lost."""
    known: dict[str, int] = {}
    for number, name in names.items():
        if (other := known.setdefault(name.lower(), number)) != number:
            raise DataError(
                f"the label values {other} and {number} are both named '{name}', without regard to case: "
                f"expected a name for each; pass --label-name {number}=NAME",
                reason="classes_alike",
            )


def _values(ones: Sequence[tuple[str, ImageAnnotation]], field: str) -> dict[str, str]:
    """Return the different classes (or patients) of an image with the first file that gives each."""
    found: dict[str, str] = {}
    for file, one in ones:
        if value := getattr(one, field):
            found.setdefault(value, file)
    return found


def agreed_classes(files: Sequence[tuple[Path, AnnotationFile]]) -> list[str]:
    """Return the class names of a YOLO dataset by number.

    Raises:
        AmbiguousLayoutError: if two files give a number different names.
    """
    lists = [notes.classes for _, notes in files if notes.kind == "classes" and notes.classes]
    longest = max(lists, key=len, default=[])
    for one in lists:
        for number, (name, other) in enumerate(zip(one, longest, strict=False)):
            if name and other and name != other:
                raise AmbiguousLayoutError(
                    f"class {number} of the YOLO labels is '{other}'",
                    f"it is '{name}', as another file with class names says",
                    _REMEDY,
                )
    return longest
