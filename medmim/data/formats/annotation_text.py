"""Readers of YOLO labels, YOLO's class names and data.yaml, and XML of Pascal VOC and CVAT."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medmim.config.yaml_settings import parse_yaml
from medmim.data.dataset.manifest import Split
from medmim.data.formats.annotation_tables import read_table
from medmim.data.formats.annotations import (
    Annotation,
    AnnotationFile,
    EntryError,
    ImageAnnotation,
    corner_box,
    outline_of,
    split_of,
)
from medmim.data.formats.class_names import plain_class_name
from medmim.data.formats.images import PICTURE_SUFFIXES
from medmim.errors import SettingsError

_CLASS_FILES = ("classes.txt", "obj.names", "labels.txt", "classes.names")
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?", re.IGNORECASE)
_CLASS_NUMBER = re.compile(r"(\d{1,4})(\.0*)?")
_SPLIT_KEYS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_MAX_CLASSES = 10_000
_MAX_SHARE = 1.5  # of a coordinate as fraction of the picture; outlines may reach a little beyond it


def read_text_file(text: str, file: Path) -> AnnotationFile:
    """Read the YOLO label of one image, the class names of a YOLO dataset, or a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if file.name.lower() in _CLASS_FILES:
        names = [plain_class_name(word, number) for number, word in enumerate(lines)]
        return AnnotationFile(kind="classes", classes=names)
    if not all(_NUMBER.fullmatch(word) for line in lines for word in line.split()):
        return _read_list(lines, file) or read_table(text, file)
    image = ImageAnnotation(image=file.stem)
    faults: Counter[str] = Counter()
    for line in lines:
        try:
            image.marks.append(_yolo_mark(line.split()))
        except EntryError as error:
            faults[error.reason] += 1
    if lines and not image.marks:
        return AnnotationFile(kind="yolo", faults=faults)
    return AnnotationFile(kind="yolo", images=[image], faults=faults)


def _read_list(lines: Sequence[str], file: Path) -> AnnotationFile | None:
    """Read a list of images, one a line; its name may be that of a split, as in train.txt.

    Names without an extension are read from such files only.
    """
    split = split_of(file.stem)
    pictures = all(line.lower().endswith(PICTURE_SUFFIXES) for line in lines)
    if not pictures and (split is None or any(len(line.split()) > 1 for line in lines)):
        return None
    return AnnotationFile(kind="list", images=[ImageAnnotation(image=line, split=split) for line in lines])


def _yolo_mark(words: Sequence[str]) -> Annotation:
    """Return a box (class, centre, size, maybe a score) or an outline (class, points) in fractions."""
    number = _CLASS_NUMBER.fullmatch(words[0])
    if number is None or len(words) < 5:
        raise EntryError("malformed")
    values = [float(word.replace(",", ".")) for word in words[1:]]
    if len(values) >= 6 and len(values) % 2 == 0:
        if max(values) > _MAX_SHARE:  # visibility of key points, or pixels
            raise EntryError("beyond_picture")
        outline = outline_of(zip(values[0::2], values[1::2], strict=True))
        return Annotation(name=number.group(1), unit="share", outlines=(outline,))
    if len(values) > 5:
        raise EntryError("malformed")
    x, y, width, height = values[:4]
    box = corner_box((x - width / 2, y - height / 2), (x + width / 2, y + height / 2))
    return Annotation(name=number.group(1), unit="share", box=box)


def read_yolo_yaml(text: str, _: Path) -> AnnotationFile:
    """Read the class names and the splits of a YOLO dataset.

    Raises:
        ValueError: or a similar error for other YAML.
    """
    try:
        content = parse_yaml(text, where="YAML")
    except SettingsError as error:
        raise ValueError("not YAML") from error
    names: Any = content.get("names")
    if isinstance(names, dict) and names and max(names) < _MAX_CLASSES:
        names = [names.get(number, "") for number in range(max(names) + 1)]
    if not isinstance(names, list):
        raise ValueError("YAML without class names")
    base = PurePosixPath(str(content.get("path") or "."))
    splits: dict[Split, list[str]] = {}
    for key, split in _SPLIT_KEYS.items():
        places = content.get(key) or []
        for place in [places] if isinstance(places, str) else places:
            splits.setdefault(split, []).append(str(base / str(place).replace("\\", "/")))
    classes = [plain_class_name(word, number) for number, word in enumerate(names)]
    return AnnotationFile(kind="classes", classes=classes, splits=splits)


def read_xml(text: str, file: Path) -> AnnotationFile:
    """Read the boxes of one image in Pascal VOC format, or the boxes and outlines of CVAT's images.

    Raises:
        ValueError: for other XML, and XML with entities.
    """
    if "<!ENTITY" in text.upper() or "<!DOCTYPE" in text.upper():
        raise ValueError("XML with entities")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError("not XML") from error
    if root.tag == "annotation":
        return _read_voc(root, file)
    if root.tag == "annotations":
        return _read_cvat(root)
    return AnnotationFile(tried="xml" if "annotation" in root.tag.lower() else "")


def _read_cvat(root: ET.Element) -> AnnotationFile:
    """Read boxes, polygons and tags of images; coordinates are used as they are."""
    images: list[ImageAnnotation] = []
    faults: Counter[str] = Counter()
    for found in root.iter("image"):
        split = split_of((found.get("subset") or "").lower())
        image = ImageAnnotation(image=found.get("name") or "", split=split)
        size = (int(found.get("width") or 0), int(found.get("height") or 0))
        for entry in found:
            name = plain_class_name(entry.get("label"))
            try:
                if entry.tag == "tag":
                    image.target = name
                elif entry.tag == "box":
                    corners = [entry.get(key) or "" for key in ("xtl", "ytl", "xbr", "ybr")]
                    image.marks.append(
                        Annotation(name=name, box=corner_box(corners[:2], corners[2:]), size=size)
                    )
                elif entry.tag == "polygon":
                    outline = outline_of(point.split(",") for point in (entry.get("points") or "").split(";"))
                    image.marks.append(Annotation(name=name, outlines=(outline,), size=size))
                else:
                    faults["unsupported"] += 1
            except EntryError as error:
                faults[error.reason] += 1
        images.append(image)
    if not images:
        return AnnotationFile(tried="xml")
    return AnnotationFile(kind="cvat", images=images, faults=faults)


def _read_voc(root: ET.Element, file: Path) -> AnnotationFile:
    """Read the boxes of one image; coordinates are used as they are."""
    name = PurePosixPath((root.findtext("filename") or file.stem).replace("\\", "/").strip()).name
    image = ImageAnnotation(image=name)
    faults: Counter[str] = Counter()
    sizes = [
        int(text) if (text := root.findtext(f"size/{key}") or "").isdecimal() else 0
        for key in ("width", "height")
    ]
    for entry in root.iter("object"):
        try:
            corners = [
                (entry.findtext(f"bndbox/{key}") or "").strip() for key in ("xmin", "ymin", "xmax", "ymax")
            ]
            box = corner_box(corners[:2], corners[2:])
            name = plain_class_name(entry.findtext("name"))
            image.marks.append(Annotation(name=name, box=box, size=(sizes[0], sizes[1])))
        except EntryError as error:
            faults[error.reason] += 1
    return AnnotationFile(kind="voc", images=[image], faults=faults)
