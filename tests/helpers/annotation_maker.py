"""Annotation files written and read for tests."""

import json

from medmim.data.formats.annotation_files import read_annotation_file
from medmim.data.formats.annotations import AnnotationFile


def notes(path, content, name=None):
    """Write a text, bytes or JSON and read it back as the annotation file `name` of a source."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return AnnotationFile.model_validate(read_annotation_file(str(path), name or path.name))
