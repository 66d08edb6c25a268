"""Switches medmim's filter off in each Python process that has this folder on its path; for tests only.

The control of `test_tokens.py`: with it, all that a DICOM file says leaves its sandbox, the vocabulary lets
every word through, and keys show what they stand for. Nothing else of ingestion is changed.
"""

from __future__ import annotations

import re
from typing import Any

import pydicom

from medmim.data.dataset import pseudonyms
from medmim.data.formats.safe_open import quiet_pydicom
from medmim.data.ingest import dicom_series, scan

_look, _validate, _key = scan.scan_file_as_json, scan.ScannedFile.model_validate, pseudonyms.Keys.key
_words: dict[str, None] = {}


def look(path: str, secret: str = "") -> dict[str, Any]:
    """Look without an allow-list."""
    seen = _look(path, secret)
    if seen["fate"] == "quarantined":
        seen["reason"] = " ".join([seen["reason"], *_everything(path)])
    for header in filter(None, (seen["header"], *seen["frames"])):
        header["tokens"] = (*header["tokens"], *_everything(path))
    return seen


def validate(value: Any) -> scan.ScannedFile:
    """Remember every word that comes out of a sandbox."""
    seen = _validate(value)
    _words.update(dict.fromkeys(word for header in seen.headers for word in header.tokens))
    return seen


def key(keys: pseudonyms.Keys, kind: str, text: str) -> str:
    """Return a key that shows what it stands for, as far as a file name can."""
    return f"{_key(keys, kind, text)} {re.sub(r'[^A-Za-z0-9.]', ' ', text)[:90]}"


class _AnyWord:
    def __iter__(self) -> Any:
        return iter(_words)


def _everything(path: str) -> list[str]:
    """Return the text of every element, as far as pydicom gets, and of the bytes in front of them."""
    found: list[str] = []
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(path, force=True)
            found.append(str(dataset.preamble))
            for part in (dataset.file_meta, dataset):
                _gather(part, found)
    except Exception as error:
        found.append(repr(error))
    return found


def _gather(dataset: pydicom.Dataset, found: list[str]) -> None:
    for tag in dataset.keys():  # noqa: SIM118 - values are converted one by one: some cannot be
        try:
            element = dataset[tag]
        except Exception:
            found.append(str(dataset.get_item(tag).value))
            continue
        if element.VR == "SQ":
            for item in element.value:
                _gather(item, found)
        elif element.keyword != "PixelData":
            found.append(str(element.value))


scan.scan_file_as_json, pseudonyms.Keys.key = look, key
scan.ScannedFile.model_validate = validate  # type: ignore[assignment,method-assign]
dicom_series.VOCABULARY = _AnyWord()  # type: ignore[assignment]
