"""Annotation files that contradict each other: about the class, patient or split of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import Split
from medmim.data.formats.annotations import AnnotationFile, ImageAnnotation
from medmim.data.ingest.infer_roles import AmbiguousLayoutError
from medmim.errors import DataError, counted

_REMEDY = "exclude the files that do not hold with --role 'GLOB=skip'"


def refuse_contradictions(
    noted: Mapping[Any, Sequence[ImageAnnotation]],
    listed: Sequence[tuple[Any, Split]] = (),
    *,
    splits: bool = True,
) -> None:
    """Stop if annotation files give an image two classes, two patients or two splits.

    Args:
        noted: annotations of each image.
        listed: images of lists such as train.txt, with their split.
        splits: whether the splits of the files are used.

    Raises:
        DataError: with the number of images.
    """
    classes = [sorted({one.target for one in ones if one.target}) for ones in noted.values()]
    if several := [found for found in classes if len(found) > 1]:
        raise AmbiguousLayoutError(
            f"{counted(len(several), 'image')} with different classes in two annotation files, such as "
            f"'{several[0][0]}' and '{several[0][1]}', of which one holds",
            "the files give classes of different kinds, or an image has several",
            f"{_REMEDY}, or write all classes into one table (a|b)",
        )
    groups = [{one.group for one in ones if one.group is not None} for ones in noted.values()]
    if count := sum(len(found) > 1 for found in groups):
        raise AmbiguousLayoutError(
            f"{counted(count, 'image')} with different patients in two annotation files, of which one holds",
            "the files use different identifiers of one patient",
            f"{_REMEDY}, or pass --subjects table.csv (columns file, subject)",
        )
    own = [(image, one.split) for image, ones in noted.items() for one in ones if one.split]
    images = [image for image, _ in {*listed, *own}]
    if splits and (count := len(images) - len(set(images))):
        raise DataError(
            f"annotation files or lists such as train.txt put {counted(count, 'image')} into two splits: "
            f"expected each in one; {_REMEDY}, or pass --splits",
            reason="split_overlap",
        )


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
