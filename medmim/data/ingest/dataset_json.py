"""What a data set says about itself in a JSON file that it brings along: modality and names of labels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.data.formats.annotation_files import plain_name
from medmim.data.formats.safe_open import open_regular
from medmim.data.ingest.context import IngestContext
from medmim.errors import DataError

_MAX_JSON_BYTES = 2**20


@dataclass(frozen=True)
class DatasetJson:
    """What a data set says about itself: DICOM's code of its modality, names of its labels."""

    modality: str | None
    label_names: dict[int, str]


def dataset_json_in(bench: IngestContext, paths: Sequence[Path]) -> dict[Path, DatasetJson]:
    """Read these files in sandboxes; those that are damaged are left out."""
    answers = bench.each(
        "descriptors", read_dataset_json, [{"path": str(bench.file(path))} for path in paths]
    )
    return {
        path: DatasetJson(
            answer.value["modality"],
            {int(number): name for number, name in answer.value["label_names"].items()},
        )
        for path, answer in zip(paths, answers, strict=True)
        if answer.value is not None
    }


def read_dataset_json(path: str) -> dict[str, Any]:
    """Read modality and label names from a `dataset.json` as the Decathlon defines it; meant for a sandbox.

    Names that are not plain words become `class 1`, so that no odd text travels further.

    Raises:
        DataError: with reason unreadable_descriptor.
    """
    try:
        with open_regular(Path(path)) as stream:
            text = stream.read(_MAX_JSON_BYTES + 1)
        content = json.loads(text) if len(text) <= _MAX_JSON_BYTES else None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(
            f"data set's own description: expected a JSON object of up to {_MAX_JSON_BYTES} bytes; export it "
            "again, or name the labels with --label-name",
            reason="unreadable_descriptor",
        )
    return {
        "modality": _modality(content.get("modality")),
        "label_names": {str(number): name for number, name in _label_names(content.get("labels")).items()},
    }


def _modality(declared: Any) -> str | None:
    """Translate the Decathlon's words (MRI, T1w, CT) to DICOM's codes."""
    first = next(iter(declared.values()), "") if isinstance(declared, dict) else declared
    word = str(first).upper()
    starts = {"MR": "MR", "T1": "MR", "T2": "MR", "FLAIR": "MR", "ADC": "MR", "CT": "CT", "PET": "PT"}
    return next((code for start, code in starts.items() if word.startswith(start)), None)


def _label_names(declared: Any) -> dict[int, str]:
    """Accept {"1": "liver"} and nnU-Net's {"liver": 1}; background is no class."""
    names: dict[int, str] = {}
    for key, value in declared.items() if isinstance(declared, dict) else ():
        number, name = (value, key) if isinstance(value, int) else (key, value)
        if re.fullmatch(r"\d{1,5}", str(number)) and int(number) > 0:
            names[int(number)] = plain_name(name, int(number))
    return dict(sorted(names.items()))
