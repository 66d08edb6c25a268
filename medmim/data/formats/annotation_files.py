"""Annotation files: COCO, VIA, LabelMe, JSON lines, YOLO, Pascal VOC, CVAT and tables, read entry by entry.

Every reader runs in a sandbox. Encoding, line ends and delimiter are detected. An entry that cannot be used
is counted in `faults` by its reason; the others are kept. Class names are kept only if they are plain words;
no other text of the files is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medmim.data.formats import annotation_json, annotation_tables, annotation_text
from medmim.data.formats.annotations import AnnotationFile
from medmim.data.formats.file_types import open_regular
from medmim.text_formats import decode_text

ANNOTATION_SUFFIXES = (".json", ".jsonl", ".txt", ".yaml", ".yml", ".csv", ".tsv", ".xml", ".names")
_MAX_BYTES = 256 * 2**20
_READERS: dict[str, Callable[[str, Path], AnnotationFile]] = {
    ".json": annotation_json.read_json,
    ".jsonl": annotation_json.read_json_lines,
    ".txt": annotation_text.read_text_file,
    ".names": annotation_text.read_text_file,
    ".yaml": annotation_text.read_yolo_yaml,
    ".yml": annotation_text.read_yolo_yaml,
    ".xml": annotation_text.read_xml,
    ".csv": annotation_tables.read_table,
    ".tsv": annotation_tables.read_table,
}


def read_annotation_file(path: str, name: str | None = None) -> dict[str, Any]:
    """Read an annotation file of any supported format, as the JSON form of `AnnotationFile`.

    Args:
        name: its path in the source; that of `path` by default.
    """
    file = Path(name or path)
    with open_regular(Path(path)) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES or file.suffix.lower() not in _READERS:
        return AnnotationFile().model_dump()
    text = decode_text(content).replace("\r\n", "\n").replace("\r", "\n")
    try:
        found = _READERS[file.suffix.lower()](text, file)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return AnnotationFile().model_dump()  # some other JSON, YAML or XML
    if found.images or found.classes or found.splits:
        return _with_shares(found).model_dump()
    return AnnotationFile(tried=found.tried or found.kind, faults=found.faults).model_dump()


def _with_shares(found: AnnotationFile) -> AnnotationFile:
    """Read boxes as fractions of the picture if none reaches beyond its first pixel."""
    marks = [mark for image in found.images for mark in image.marks]
    if marks and all(mark.unit == "voxel" and mark.box and max(mark.box) <= 1.0 for mark in marks):
        for image in found.images:
            image.marks = [mark.model_copy(update={"unit": "share"}) for mark in image.marks]
    return found
