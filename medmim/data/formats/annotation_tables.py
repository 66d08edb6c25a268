"""Reader of annotation tables: classes of images, boxes in pixels, and findings in world millimetres."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from medmim.data.formats.annotation_json import read_via_rows
from medmim.data.formats.annotation_rows import (
    CLASS_COLUMNS,
    CORNERS,
    GROUP_COLUMNS,
    IMAGE_COLUMNS,
    KNOWN,
    SIZES,
    SPLIT_COLUMNS,
    WORLD,
    WORLD_SIZES,
    Row,
    number_in,
    plain_name,
    rows_of,
)
from medmim.data.formats.annotations import (
    Annotation,
    AnnotationFile,
    EntryError,
    ImageAnnotation,
    corner_box,
    split_of,
)
from medmim.data.formats.class_names import plain_class_name
from medmim.data.formats.images import PICTURE_SUFFIXES
from medmim.text_formats import NOT_STATED

_VAGUE = {"type", "object", "annotation", "level", "result"}  # columns that may hold something else
_NO_BOX = {"", "nan", "none", "null", "na", "n/a", "-1", "-1.0"}  # cells of a row without a box
_NO_CLASS = {"no finding", "no findings", "normal", "none"}  # an image of none of the classes
_BINARY = {
    "1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0,
    "-1": -1.0, "-1.0": -1.0,
}  # fmt: skip


def read_table(text: str, _: Path) -> AnnotationFile:
    """Read a table with a header row; the names of the columns determine its kind.

    Findings in millimetres have seriesuid, coordX, coordY, coordZ and diameter_mm or three sizes. Boxes have
    an image and two corners, or a corner and a size; rows without numbers are images without findings. Class
    tables have an image and a class, or one column of 0 and 1 per class.
    """
    rows, faults = rows_of(text)
    columns = list(rows[0]) if rows else []
    if "region_shape_attributes" in columns:
        return read_via_rows(rows)
    if set(WORLD) <= set(columns):
        return _read_world(rows, faults)
    headless = any(name.lower().endswith(PICTURE_SUFFIXES) for name in columns)
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    image = image or (None if headless else _column_of_files(rows))
    unclear = next((one for one in columns if plain_name(one) == "bbox" or _is_run_length(one)), None)
    if image is None or unclear:  # the order of numbers in one cell differs from tool to tool
        tried = "run_lengths" if unclear and _is_run_length(unclear) else "table"
        return AnnotationFile(tried=tried if unclear or headless else "")
    target = next((name for name in CLASS_COLUMNS if name in columns and name != image), None)
    corners = next((names for names in (*CORNERS, *SIZES) if set(names) <= set(columns)), None)
    if corners is not None:
        return _read_boxes(rows, faults, image=image, target=target, corners=corners)
    if target is not None:
        return _read_classes(rows, faults, image=image, target=target)
    return _read_one_hot(rows, faults, image=image)


def _column_of_files(rows: Sequence[Row]) -> str | None:
    """Return the first column with names of pictures or volumes only."""
    endings = (*PICTURE_SUFFIXES, ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")
    columns = rows[0] if rows else ()
    return next((name for name in columns if all(row[name].lower().endswith(endings) for row in rows)), None)


def _is_run_length(column: str) -> bool:
    return "encodedpixels" in plain_name(column) or "rle" in re.split(r"[\W_]", column.lower())


def _read_world(rows: Sequence[Row], faults: Counter[str]) -> AnnotationFile:
    images: dict[str, ImageAnnotation] = {}
    for row in rows:
        image = images.setdefault(row["seriesuid"], ImageAnnotation(image=row["seriesuid"]))
        try:
            image.marks.append(_world_mark(row))
        except EntryError as error:
            faults[error.reason] += 1
    return AnnotationFile(kind="world_mm", images=list(images.values()), faults=faults)


def _world_mark(row: Row) -> Annotation:
    centre = [number_in(row[f"coord{axis}"]) for axis in "xyz"]
    if row.get("diametermm"):
        sizes = [number_in(row["diametermm"])] * 3
    else:
        sizes = [number_in(row.get(name, "")) for name in WORLD_SIZES]
    ends = [
        [place + sign * size / 2 for place, size in zip(centre, sizes, strict=True)] for sign in (-1.0, 1.0)
    ]
    return Annotation(name=_class_name(row, None), unit="mm", box=corner_box(*ends))


def _class_name(row: Row, column: str | None) -> str:
    names = (column,) if column else CLASS_COLUMNS
    given = next((row[name] for name in names if row.get(name)), None)
    return plain_class_name(given)


def _read_boxes(
    rows: Sequence[Row], faults: Counter[str], *, image: str, target: str | None, corners: Sequence[str]
) -> AnnotationFile:
    images: dict[str, ImageAnnotation] = {}
    for row in rows:
        if not row[image]:
            faults["malformed"] += 1
            continue
        one = images.setdefault(row[image], _image_of(row, image))
        if {row[name].lower() for name in corners} <= _NO_BOX:
            continue  # an image without findings
        try:
            first, second = (
                [number_in(row[name]) for name in corners[:2]],
                [number_in(row[name]) for name in corners[2:]],
            )
            if corners in SIZES:
                second = [start + size for start, size in zip(first, second, strict=True)]
            # a column of 0 and 1 states whether there is a finding, not which
            name = "" if target is None or row[target] in ("0", "1") else _class_name(row, target)
            one.marks.append(Annotation(name=name, box=corner_box(first, second)))
        except EntryError as error:
            faults[error.reason] += 1
    unread = _columns_of_words(rows) if target is None else 0
    return AnnotationFile(kind="boxes", images=list(images.values()), faults=faults, unread_columns=unread)


def _columns_of_words(rows: Sequence[Row]) -> int:
    """Return the number of unknown columns that may be classes: few different words that repeat."""
    columns = (name for name in rows[0] if name not in KNOWN)
    found = [{row[name] for row in rows if row[name]} for name in columns]
    return sum(1 < len(own) <= len(rows) / 2 and not any(map(_is_number, own)) for own in found)


def _is_number(cell: str) -> bool:
    try:
        number_in(cell)
    except EntryError:
        return False
    return True


def _read_classes(rows: Sequence[Row], faults: Counter[str], *, image: str, target: str) -> AnnotationFile:
    """Read one class per row; if an image has several, in one row or more, every image has its `targets`."""
    cells = [_words_in(row[target]) for row in rows]
    words = sorted({word for cell in cells for word in cell})
    names = {word: plain_class_name(_one_spelling(word)) for word in words}
    images: dict[str, ImageAnnotation] = {}
    classes: dict[str, set[str]] = defaultdict(set)
    for row, cell in zip(rows, cells, strict=True):
        if not row[image] or not cell:
            faults["malformed" if not row[image] else "class_not_stated"] += 1
            continue
        images.setdefault(row[image], _image_of(row, image))
        classes[row[image]] |= {names[word] for word in cell}
    several = any(len(own) > 1 for own in classes.values())
    findings = sorted(name for name in set(names.values()) if name.lower() not in _NO_CLASS)
    for name, one in images.items():
        one.target = next(iter(classes[name])) if len(classes[name]) == 1 else None
        one.targets = {finding: float(finding in classes[name]) for finding in findings} if several else {}
        faults["several_classes"] += one.target is None
    others = [name for name in CLASS_COLUMNS if name in rows[0] and name not in (image, target)]
    doubtful = {target: others} if others or (target in _VAGUE and _columns_of_words(rows)) else {}
    return AnnotationFile(
        kind="class_table", images=list(images.values()), faults=+faults, class_columns=doubtful
    )


def _one_spelling(word: str) -> str:
    """Return a number in its shortest form, such as 1 for 1.0 and 1,0; other words as they are."""
    try:
        number = number_in(word)
    except EntryError:
        return word
    return str(int(number) if number.is_integer() else number) if math.isfinite(number) else word


def _words_in(cell: str) -> list[str]:
    """Return the classes in a cell: one, or several as a|b or ['a', 'b']."""
    if cell.lower() in NOT_STATED:
        return []
    if cell.startswith("[") and cell.endswith("]"):
        return [word for part in cell[1:-1].split(",") if (word := part.strip(" '\""))]
    return [word for part in cell.split("|") if (word := part.strip())]


def _read_one_hot(rows: Sequence[Row], faults: Counter[str], *, image: str) -> AnnotationFile:
    """Read one column per class: 1 present, 0 absent, -1 uncertain, empty: not stated.

    Rows with one class have it as `target`. If some have several or none, every row has its `targets`. What
    a single column of 0 and 1 means is not known: it may be a class or, say, the sex.
    """
    values = {name: {row[name].lower() for row in rows} for name in rows[0] if name != image}
    columns = [name for name, found in values.items() if found <= {*_BINARY, *NOT_STATED}]
    found = [{_BINARY.get(cell) for cell in values[name]} for name in columns]
    if sum(1 in own for own in found) < 2:
        return AnnotationFile(tried="table" if any({0, 1} <= own for own in found) else "")
    names = {name: plain_class_name(name) for name in columns}
    images = []
    for row in rows:
        one = _image_of(row, image)
        cells = ((names[name], _BINARY.get(row[name].lower())) for name in columns)
        one.targets = {name: value for name, value in cells if value is not None}
        own = [name for name, value in one.targets.items() if value == 1]
        one.target = own[0] if len(own) == 1 else None
        faults["several_classes" if own else "no_class"] += one.target is None
        images.append(one)
    if all(one.target for one in images):
        for one in images:
            one.targets = {}
    return AnnotationFile(kind="class_table", images=images, faults=+faults)


def _image_of(row: Row, image: str) -> ImageAnnotation:
    group = next((row[name] for name in GROUP_COLUMNS if name != image and row.get(name)), None)
    split = next((row[name] for name in SPLIT_COLUMNS if row.get(name)), "")
    return ImageAnnotation(image=row[image], group=group, split=split_of(split))
