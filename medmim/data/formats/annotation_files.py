"""Files in which people note boxes, outlines and classes: COCO, VIA, JSON lines, YOLO, tables in mm.

All of it is meant for a sandbox. Class names are kept only if they are plain words; other texts of the files
stay where they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from medmim.data.formats.annotations import Annotation, ellipse
from medmim.data.formats.coco_rle import decode_runs
from medmim.data.formats.file_types import open_regular

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _+-]{0,39}")


def clean_class_name(name: Any, number: int) -> str:
    """Return the name in lower case if it is plain words, else `class` and its number."""
    plain = isinstance(name, str) and _PLAIN_NAME.fullmatch(name.strip())
    return name.strip().lower() if plain else f"class {number}"


ANNOTATION_SUFFIXES = (".json", ".jsonl", ".txt", ".yaml", ".yml", ".csv")
_MAX_BYTES = 256 * 2**20
_CLASS_KEYS = ("class", "label", "name", "type", "category")
_CSV_COLUMNS = ("seriesuid", "coordx", "coordy", "coordz")
_YOLO_LINE = re.compile(r"\d{1,4}(\s+-?[\d.]+(e-?\d+)?){4,}", re.IGNORECASE)


class ImageAnnotation(BaseModel):
    """What a file says of one image; `image` is a path below the file's folder, a name, or a series UID."""

    model_config = ConfigDict(extra="forbid")

    image: str
    target: str | None = None
    group: str | None = None
    marks: list[Annotation] = Field(default_factory=list)


class AnnotationFile(BaseModel):
    """What a file notes; `kind` is "" for a file that is no annotation.

    `unread` counts regions that are not read: points, lines, damaged masks. `classes` are the names
    that a YOLO data set gives to its numbers.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str = ""
    images: list[ImageAnnotation] = Field(default_factory=list)
    classes: list[str] = Field(default_factory=list)
    unread: int = 0


def read_annotation_file(path: str, name: str | None = None) -> dict[str, Any]:
    """Read an annotation file of any known kind, as the JSON form of `AnnotationFile`.

    Args:
        path: the file.
        name: what it is called in the source; as at `path` without it.
    """
    file = Path(name or path)
    with open_regular(Path(path)) as stream:
        text = stream.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        return AnnotationFile().model_dump()
    readers: dict[str, Callable[[str, Path], AnnotationFile]] = {
        ".json": _json,
        ".jsonl": _json_lines,
        ".txt": _words_or_yolo,
        ".yaml": _yolo_names,
        ".yml": _yolo_names,
        ".csv": _table,
    }
    try:
        return readers[file.suffix.lower()](text.decode("utf-8-sig"), file).model_dump()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, yaml.YAMLError):
        return AnnotationFile().model_dump()  # the caller enters it as no annotation


def _json(text: str, _: Path) -> AnnotationFile:
    content = json.loads(text)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list) and "images" in content:
        return _coco(content)
    if isinstance(content, dict):
        return _via(content.get("_via_img_metadata", content))
    return AnnotationFile()


def _coco(content: Mapping[str, Any]) -> AnnotationFile:
    names = {one["id"]: clean_class_name(one.get("name"), one["id"]) for one in content.get("categories", [])}
    images = {one["id"]: ImageAnnotation(image=str(one["file_name"])) for one in content["images"]}
    unread = 0
    for one in content["annotations"]:
        name = names.get(one.get("category_id"), "finding")
        mark, lost = _coco_mark(name, one)
        unread += lost
        images[one["image_id"]].marks += [mark] if mark else []
    return AnnotationFile(kind="coco", images=list(images.values()), unread=unread)


def _coco_mark(name: str, one: Mapping[str, Any]) -> tuple[Annotation | None, bool]:
    """Return a finding, and whether it has a mask that cannot be read; its box counts all the same."""
    parts, lost = one.get("segmentation"), False
    said: dict[str, Any] = {"name": name}
    if "bbox" in one:
        left, top, width, height = one["bbox"]
        said["box"] = (left, top, left + width, top + height)
    if isinstance(parts, dict):
        try:
            said["runs"], said["size"] = decode_runs(parts)
        except (ValueError, KeyError, TypeError):
            lost = True
    elif outlines := [part for part in parts or () if len(part) >= 6]:
        pairs = tuple(_pairs([float(one) for one in part]) for part in outlines)
        return Annotation(name=name, outlines=pairs), False
    return (Annotation(**said), lost) if len(said) > 1 else (None, True)


def _via(content: Mapping[str, Any]) -> AnnotationFile:
    images, unread = [], 0
    for one in content.values():
        regions = one["regions"]
        noted = ImageAnnotation(image=str(one["filename"]))
        for region in regions.values() if isinstance(regions, dict) else regions:
            mark = _via_mark(region)
            unread += mark is None
            noted.marks += [mark] if mark else []
        images.append(noted)
    return AnnotationFile(kind="via", images=images, unread=unread)


def _via_mark(region: Mapping[str, Any]) -> Annotation | None:
    shape, words = region["shape_attributes"], region.get("region_attributes") or {}
    said = next((words[key] for key in _CLASS_KEYS if isinstance(words.get(key), str)), None)
    name = clean_class_name(said, 1) if said else ""
    kind = shape["name"]
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return Annotation(name=name, box=(x, y, x + shape["width"], y + shape["height"]))
    if kind == "polygon":
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        return Annotation(name=name, outlines=(tuple(points),)) if len(points) >= 3 else None
    if kind in ("circle", "ellipse"):
        radii = [shape["r"]] * 2 if kind == "circle" else [shape["rx"], shape["ry"]]
        centre = [float(shape["cx"]), float(shape["cy"])]
        outline = ellipse(centre, [float(radius) for radius in radii], float(shape.get("theta", 0.0)))
        return Annotation(name=name, outlines=(tuple(outline),))
    return None


def _json_lines(text: str, _: Path) -> AnnotationFile:
    """Read one object a line: `image`, and `class`, `group`, `box_xyxy`, `polygon_xy` where known."""
    images: dict[str, ImageAnnotation] = {}
    for line in filter(str.strip, text.splitlines()):
        row = json.loads(line)
        name = clean_class_name(row["class"], 1) if "class" in row else None
        noted = images.setdefault(row["image"], ImageAnnotation(image=row["image"], target=name))
        noted.group = str(row["group"]) if "group" in row else None
        if row.get("polygon_xy"):
            noted.marks.append(Annotation(name=name or "", outlines=(row["polygon_xy"],)))
        elif row.get("box_xyxy"):
            noted.marks.append(Annotation(name=name or "", box=row["box_xyxy"]))
    return AnnotationFile(kind="json_lines", images=list(images.values()))


def _words_or_yolo(text: str, file: Path) -> AnnotationFile:
    """Read the boxes of one image, or the class names of a YOLO data set."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if file.name.lower() in ("classes.txt", "obj.names", "labels.txt"):
        return AnnotationFile(
            kind="classes", classes=[clean_class_name(word, n) for n, word in enumerate(lines)]
        )
    if not all(_YOLO_LINE.fullmatch(line) for line in lines):
        return AnnotationFile()
    marks = []
    for line in lines:
        number, *values = line.split()
        marks.append(_yolo_mark(number, [float(value) for value in values]))
    return AnnotationFile(kind="yolo", images=[ImageAnnotation(image=file.stem, marks=marks)])


def _yolo_mark(number: str, values: Sequence[float]) -> Annotation:
    if len(values) >= 6 and len(values) % 2 == 0:
        return Annotation(name=number, unit="share", outlines=(_pairs(values),))
    x, y, width, height = values[:4]
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Annotation(name=number, unit="share", box=box)


def _yolo_names(text: str, _: Path) -> AnnotationFile:
    content = yaml.safe_load(text)
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = [names.get(number, "") for number in range(max(names) + 1)] if max(names) < 10_000 else None
    if not isinstance(names, list):
        return AnnotationFile()
    return AnnotationFile(
        kind="classes", classes=[clean_class_name(word, number) for number, word in enumerate(names)]
    )


def _table(text: str, _: Path) -> AnnotationFile:
    """Read findings in world millimetres: seriesuid, coordX, coordY, coordZ, diameter_mm or three sizes."""
    rows = csv.DictReader(io.StringIO(text))
    columns = {str(name).strip().lower(): name for name in rows.fieldnames or ()}
    if not set(_CSV_COLUMNS) <= set(columns):
        return AnnotationFile()
    found: dict[str, ImageAnnotation] = {}
    unread = 0
    for row in rows:
        plain = {short: (row[name] or "").strip() for short, name in columns.items()}
        series = plain["seriesuid"]
        mark = _world_mark(plain)
        unread += mark is None
        found.setdefault(series, ImageAnnotation(image=series)).marks += [mark] if mark else []
    return AnnotationFile(kind="world_mm", images=list(found.values()), unread=unread)


def _world_mark(row: Mapping[str, str]) -> Annotation | None:
    try:
        centre = [float(row[f"coord{axis}"]) for axis in "xyz"]
        if row.get("diameter_mm"):
            sizes = [float(row["diameter_mm"])] * 3
        else:
            sizes = [float(row[name]) for name in ("size_x_mm", "size_y_mm", "size_z_mm")]
    except (KeyError, ValueError):
        return None
    if not all(map(math.isfinite, [*centre, *sizes])) or min(sizes) <= 0:
        return None
    low = [place - size / 2 for place, size in zip(centre, sizes, strict=True)]
    high = [place + size / 2 for place, size in zip(centre, sizes, strict=True)]
    said = next((row[key] for key in _CLASS_KEYS if row.get(key)), None)
    return Annotation(name=clean_class_name(said, 1) if said else "", unit="mm", box=(*low, *high))


def _pairs(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(values[0::2], values[1::2], strict=True))
