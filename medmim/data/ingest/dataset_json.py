"""The `dataset.json` that a dataset brings along: modality and names of labels and channels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medmim.data.dataset.vocabulary import tokens_of
from medmim.data.formats.annotation_files import clean_class_name
from medmim.data.formats.file_types import open_regular
from medmim.data.ingest.context import IngestContext
from medmim.errors import DataError

_MAX_JSON_BYTES = 2**20


class DatasetJson(BaseModel):
    """Content of a `dataset.json`.

    Attributes:
        modality: DICOM's code of the modality.
        label_names: name of each class number.
        channels: tokens of each channel number, such as {1: ("t2",)}.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: str | None
    label_names: dict[int, str]
    channels: dict[int, tuple[str, ...]] = {}


def dataset_json_in(context: IngestContext, paths: Sequence[Path]) -> dict[Path, DatasetJson]:
    """Read these files in sandboxes; damaged files are left out."""
    answers = context.each(
        "descriptors", read_dataset_json, [{"path": str(context.file(path))} for path in paths]
    )
    return {
        path: DatasetJson.model_validate(answer.value)
        for path, answer in zip(paths, answers, strict=True)
        if answer.value is not None
    }


def read_dataset_json(path: str) -> dict[str, Any]:
    """Read a `dataset.json` in the form of the Decathlon or nnU-Net; meant for a sandbox.

    Names that are not plain words become `class 1`, so that no odd text travels further.

    Returns:
        The JSON form of `DatasetJson`.

    Raises:
        DataError: with reason unreadable_descriptor.
    """
    try:
        with open_regular(Path(path)) as stream:
            text = stream.read(_MAX_JSON_BYTES + 1)
        content = json.loads(text) if len(text) <= _MAX_JSON_BYTES else None
    except (DataError, OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DataError(
            f"dataset.json: expected a JSON object of up to {_MAX_JSON_BYTES} bytes; export it again, or "
            "name the labels with --label-name",
            reason="unreadable_descriptor",
        )
    channels = content.get("channel_names", content.get("modality"))
    return DatasetJson(
        modality=_modality(channels),
        label_names=_label_names(content.get("labels")),
        channels=_channels(channels),
    ).model_dump(mode="json")


def _modality(channels: Any) -> str | None:
    """Translate the name of the first channel (MRI, T1w, CT) to DICOM's code."""
    first = next(iter(channels.values()), "") if isinstance(channels, dict) else channels
    word = str(first).upper()
    starts = {"MR": "MR", "T1": "MR", "T2": "MR", "FLAIR": "MR", "ADC": "MR", "CT": "CT", "PET": "PT"}
    return next((code for start, code in starts.items() if word.startswith(start)), None)


def _label_names(labels: Any) -> dict[int, str]:
    """Accept {"1": "liver"} and nnU-Net's {"liver": 1}; background is not a class."""
    names: dict[int, str] = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        number, name = (value, key) if isinstance(value, int) else (key, value)
        if re.fullmatch(r"\d{1,5}", str(number)) and int(number) > 0:
            names[int(number)] = clean_class_name(name, int(number))
    return dict(sorted(names.items()))


def _channels(channels: Any) -> dict[int, tuple[str, ...]]:
    """Return the known words in the names of channels."""
    pairs = channels.items() if isinstance(channels, dict) else ()
    return {int(key): tokens_of([str(name)]) for key, name in pairs if str(key).isdecimal()}
