"""Readers of annotations in JSON: COCO, VIA (VGG annotator), LabelMe and JSON lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.data.formats.annotations import (
    Annotation,
    AnnotationFile,
    EntryError,
    ImageAnnotation,
    corner_box,
    ellipse,
    outline_of,
    split_of,
)
from medmim.data.formats.class_names import plain_class_name
from medmim.data.formats.coco_rle import decode_runs
from medmim.text_formats import parse_json

CLASS_KEYS = ("class", "label", "name", "type", "category")
_ENTRY_ERRORS = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


def read_json(text: str, file: Path) -> AnnotationFile:
    """Read COCO, LabelMe or VIA.

    Raises:
        ValueError: or a similar error for JSON of another kind.
    """
    content = parse_json(text)
    if isinstance(content.get("annotations"), list) and isinstance(content.get("images"), list):
        return _read_coco(content, file)
    if isinstance(content.get("shapes"), list) and ("imagePath" in content or "version" in content):
        return _read_labelme(content, file)
    return _read_via(content.get("_via_img_metadata", content))


def read_json_lines(text: str, _: Path) -> AnnotationFile:
    """Read one object per line: `image`, and any of `class`, `group`, `split`, `box_xyxy`, `polygon_xy`.

    As in Hugging Face's `metadata.jsonl`, `file_name` is the image and `label` its class.
    """
    images: dict[str, ImageAnnotation] = {}
    faults: Counter[str] = Counter()

    def read(line: str) -> None:
        row = parse_json(line)
        row = {{"file_name": "image", "label": "class"}.get(key, key): value for key, value in row.items()}
        name = None if row.get("class") is None else plain_class_name(str(row["class"])) or None
        image = ImageAnnotation(image=row["image"], target=name)
        image.group = str(row["group"]) if "group" in row else None
        image.split = split_of(str(row["split"])) if "split" in row else None
        known = images.setdefault(image.image, image)
        known.target = name if known.target == name else None  # several findings of several classes
        if row.get("polygon_xy"):
            outline = outline_of(row["polygon_xy"])
            images[image.image].marks.append(Annotation(name=name or "", outlines=(outline,)))
        elif row.get("box_xyxy"):
            box = corner_box(row["box_xyxy"][:2], row["box_xyxy"][2:])
            images[image.image].marks.append(Annotation(name=name or "", box=box))

    _each(filter(str.strip, text.splitlines()), read, faults)
    return AnnotationFile(kind="json_lines", images=list(images.values()), faults=faults)


def _each(entries: Iterable[Any], read: Callable[[Any], None], faults: Counter[str]) -> None:
    """Read entry by entry; count those that cannot be used."""
    for entry in entries:
        try:
            read(entry)
        except EntryError as error:
            faults[error.reason] += 1
        except _ENTRY_ERRORS:
            faults["malformed"] += 1


def _read_coco(content: Mapping[str, Any], file: Path) -> AnnotationFile:
    names: dict[Any, str] = {}
    images: dict[Any, ImageAnnotation] = {}
    sizes: dict[Any, tuple[int, int]] = {}
    faults: Counter[str] = Counter()
    used: dict[str, set[str]] = {}
    split = split_of(file.stem) or split_of(file.parent.name)

    def read_category(entry: Mapping[str, Any]) -> None:
        names[entry["id"]] = plain_class_name(entry.get("name"), entry["id"])

    def read_image(entry: Mapping[str, Any]) -> None:
        images[entry["id"]] = ImageAnnotation(image=str(entry["file_name"]), split=split)
        sizes[entry["id"]] = int(entry.get("width") or 0), int(entry.get("height") or 0)

    def read_annotation(entry: Mapping[str, Any]) -> None:
        if entry["image_id"] not in images:
            raise EntryError("orphan")
        name = names.get(entry.get("category_id"))
        faults.update(["unknown_category"] if name is None else [])
        used.setdefault(name or "", set()).add(str(entry.get("category_id"))[:20])
        mark = read_coco_mark(name or "finding", entry, faults)
        size = mark.size if mark.runs else sizes[entry["image_id"]]
        images[entry["image_id"]].marks.append(mark.model_copy(update={"size": size}))

    categories = content.get("categories") or ()
    if repeated := _repeated_ids(categories, "name") + _repeated_ids(content["images"], "file_name"):
        return AnnotationFile(tried="coco", faults=Counter(repeated_id=repeated))
    _each(categories, read_category, faults)
    _each(content["images"], read_image, faults)
    _each(content["annotations"], read_annotation, faults)
    shared = {name: sorted(ids) for name, ids in used.items() if name and len(ids) > 1}
    return AnnotationFile(kind="coco", images=list(images.values()), faults=faults, shared_names=shared)


def _repeated_ids(entries: Iterable[Any], key: str) -> int:
    """Count ids of several images or categories: annotations do not say which one they mean."""
    known: dict[str, set[str]] = {}
    for entry in entries:
        if isinstance(entry, Mapping) and "id" in entry and key in entry:
            known.setdefault(str(entry["id"]), set()).add(str(entry[key]))
    return sum(len(values) > 1 for values in known.values())


def read_coco_mark(name: str, entry: Mapping[str, Any], faults: Counter[str]) -> Annotation:
    """Return a finding of a COCO file; a mask that cannot be read is counted, and its box is used.

    Raises:
        EntryError: if there is neither a usable mask nor a usable box.
    """
    parts = entry.get("segmentation")
    try:
        if isinstance(parts, Mapping):
            runs, size = decode_runs(parts)
            box = _coco_box(entry) if entry.get("bbox") else ()
            return Annotation(name=name, box=box, runs=runs, size=size)
        if parts:
            outlines = tuple(outline_of(zip(part[0::2], part[1::2], strict=True)) for part in parts if part)
            return Annotation(name=name, outlines=outlines)
    except EntryError as error:
        faults[f"{error.reason}_mask"] += 1
    except _ENTRY_ERRORS:
        faults["malformed_mask"] += 1
    return Annotation(name=name, box=_coco_box(entry))


def _coco_box(entry: Mapping[str, Any]) -> tuple[float, ...]:
    if not entry.get("bbox"):
        raise EntryError("empty")
    left, top, width, height = (float(value) for value in entry["bbox"])
    return corner_box((left, top), (left + width, top + height))


def _read_via(content: Mapping[str, Any]) -> AnnotationFile:
    images: list[ImageAnnotation] = []
    faults: Counter[str] = Counter()

    def read_image(entry: Mapping[str, Any]) -> None:
        image = ImageAnnotation(image=str(entry["filename"]))
        regions = entry["regions"]

        def read_region(region: Mapping[str, Any]) -> None:
            image.marks.append(_via_mark(region))

        _each(regions.values() if isinstance(regions, Mapping) else regions, read_region, faults)
        images.append(image)

    entries = list(content.values())
    if not any(isinstance(entry, Mapping) and "regions" in entry for entry in entries):
        raise ValueError("JSON without regions")
    _each(entries, read_image, faults)
    return AnnotationFile(kind="via", images=images, faults=faults)


def read_via_rows(rows: Sequence[Mapping[str, str]]) -> AnnotationFile:
    """Read the rows of a table that VIA exported, one region each."""
    images: dict[str, ImageAnnotation] = {}
    faults: Counter[str] = Counter()

    def read(row: Mapping[str, str]) -> None:
        image = images.setdefault(row["filename"], ImageAnnotation(image=row["filename"]))
        shape = parse_json(row["region_shape_attributes"] or "{}")
        words = parse_json(row.get("region_attributes") or "{}")
        if shape:
            image.marks.append(_via_mark({"shape_attributes": shape, "region_attributes": words}))

    _each(rows, read, faults)
    return AnnotationFile(kind="via", images=list(images.values()), faults=faults)


def _via_mark(region: Mapping[str, Any]) -> Annotation:
    shape, words = region["shape_attributes"], region.get("region_attributes") or {}
    given = next((words[key] for key in CLASS_KEYS if isinstance(words.get(key), str)), None)
    name = plain_class_name(given)
    kind = shape["name"]
    if kind == "rect":
        x, y = float(shape["x"]), float(shape["y"])
        return Annotation(name=name, box=corner_box((x, y), (x + shape["width"], y + shape["height"])))
    if kind == "polygon":
        outline = outline_of(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        return Annotation(name=name, outlines=(outline,))
    if kind in ("circle", "ellipse"):
        radii = [shape["r"]] * 2 if kind == "circle" else [shape["rx"], shape["ry"]]
        centre = [float(shape["cx"]), float(shape["cy"])]
        outline = tuple(ellipse(centre, [float(radius) for radius in radii], float(shape.get("theta", 0.0))))
        return Annotation(name=name, outlines=(outline_of(outline),))
    raise EntryError("shape_not_supported")


def _read_labelme(content: Mapping[str, Any], file: Path) -> AnnotationFile:
    path = str(content.get("imagePath") or "").replace("\\", "/")
    name = PurePosixPath(path).name or file.stem
    image = ImageAnnotation(image=name)
    faults: Counter[str] = Counter()

    def read_shape(shape: Mapping[str, Any]) -> None:
        size = int(content.get("imageWidth") or 0), int(content.get("imageHeight") or 0)
        image.marks.append(_labelme_mark(shape).model_copy(update={"size": size}))

    _each(content["shapes"], read_shape, faults)
    return AnnotationFile(kind="labelme", images=[image], faults=faults)


def _labelme_mark(shape: Mapping[str, Any]) -> Annotation:
    name, points = plain_class_name(shape.get("label")), shape["points"]
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return Annotation(name=name, outlines=(outline_of(points),))
    if kind == "rectangle":
        pairs = list(zip(*points, strict=True))
        return Annotation(name=name, box=corner_box([min(one) for one in pairs], [max(one) for one in pairs]))
    if kind == "circle":
        centre, edge = ([float(value) for value in point] for point in points)
        radius = math.dist(centre, edge)
        return Annotation(name=name, outlines=(outline_of(ellipse(centre, (radius, radius))),))
    raise EntryError("shape_not_supported")
