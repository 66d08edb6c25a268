"""Names of classes in annotation files: plain words are kept, others are replaced by `class` and a number.

Others may be sentences about a patient. They stay apart within one ingestion: a reader in a sandbox gives
each a provisional name, and `number_classes` numbers those of all files together. Names that differ in case
only are one class in a dataset; readers keep the case, so that an ingestion can refuse such names.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from medmim.data.formats.annotations import AnnotationFile, ImageAnnotation

_MAX_LENGTH = 40
_SEPARATORS = re.compile(r"[/,&():]|(?<!\d)\.|\.(?!\d)")  # 0.5 stays a number
_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d{1,15})?(e[-+]?\d{1,3})?", re.IGNORECASE)
_WORD_CHARACTERS = " _+-."
_PROVISIONAL = "?"  # first character of a provisional name; no plain name contains it


def clean_class_name(name: Any, number: int | None = None) -> str:
    """Return `plain_class_name` in lower case."""
    return plain_class_name(name, number).lower()


def plain_class_name(name: Any, number: int | None = None) -> str:
    """Return the name if it consists of plain words of any language; "" for no name.

    Latin letters lose their accents, and separators such as "/" and "(" become spaces.

    Args:
        number: of the class in its file. Any other name is `class` and this number; without one, it is
            provisional.
    """
    text = _in_plain_letters(name) if isinstance(name, str) else ""
    text = " ".join(_SEPARATORS.sub(" ", text).split())
    if _is_plain(text):
        return text
    if number is not None:
        return f"class {number}"
    given = "" if name is None else str(name).strip()
    return _PROVISIONAL + hashlib.sha256(given.encode(errors="replace")).hexdigest() if given else ""


def number_classes(files: Sequence[AnnotationFile]) -> list[AnnotationFile]:
    """Return the files with names in lower case, and numbered ones in place of provisional ones, in order."""
    used = [name for file in files for one in file.images for name in names_in(one)]
    taken = {name.lower() for name in (*used, *(name for file in files for name in file.classes))}
    numbers = (name for number in itertools.count(1) if (name := f"class {number}") not in taken)
    provisional = dict.fromkeys(name for name in used if name.startswith(_PROVISIONAL))
    numbered = dict(zip(provisional, numbers, strict=False))
    renamed = {name: name.lower() for name in used} | numbered
    result: list[AnnotationFile] = []
    seen: set[str] = set()
    for file in files:
        names = {name for one in file.images for name in names_in(one)} & numbered.keys()
        images, classes = [_renamed(one, renamed) for one in file.images], map(str.lower, file.classes)
        update = {"images": images, "classes": [*classes], "numbered_classes": len(names - seen)}
        result.append(file.model_copy(update=update))
        seen |= names
    return result


def _renamed(one: ImageAnnotation, renamed: Mapping[str, str]) -> ImageAnnotation:
    marks = [mark.model_copy(update={"name": renamed[mark.name]}) for mark in one.marks]
    update = {
        "target": renamed.get(one.target or "", one.target),
        "targets": {renamed[name]: value for name, value in one.targets.items()},
        "marks": marks,
    }
    return one.model_copy(update=update)


def names_in(one: ImageAnnotation) -> list[str]:
    """Return the names of the classes of an image."""
    return [*([one.target] if one.target else []), *one.targets, *(mark.name for mark in one.marks)]


def _in_plain_letters(text: str) -> str:
    """Return Latin text without accents, other text as composed characters."""
    parts = unicodedata.normalize("NFKD", text)
    bare = "".join(char for char in parts if not unicodedata.combining(char))
    return bare if bare.isascii() else unicodedata.normalize("NFKC", text)


def _is_plain(text: str) -> bool:
    marks = (char for char in text if not char.isalnum() and char not in _WORD_CHARACTERS)
    written = all(unicodedata.category(char).startswith("M") for char in marks)  # vowels of Indic scripts
    word = 0 < len(text) <= _MAX_LENGTH and text[0].isalnum() and written
    return word or bool(_NUMBER.fullmatch(text))
