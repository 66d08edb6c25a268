"""The `dataset.json` shipped with a dataset: modality and names of labels and channels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from medmim.data.formats.class_names import clean_class_name
from medmim.data.formats.file_types import open_regular
from medmim.errors import DataError
from medmim.text_formats import parse_json

_MAX_JSON_BYTES = 2**20
_MAX_NAME = 40
_NUMBERED = re.compile(r"(?:Dataset|Task)\d{2,4}_", re.IGNORECASE)


class DatasetJson(BaseModel):
    """Content of a `dataset.json`.

    Attributes:
        modalities: DICOM's code of the modality of each channel, where it is known; of all, if only one.
        label_names: name of each class number.
        regions: label values of each region, if there is one of several values (nnU-Net's region training).
        channels: number of channels that are declared.
        name: of the dataset, in plain letters such as `hip-study`; "" if it has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[str | None, ...]
    label_names: dict[int, str]
    regions: dict[str, tuple[int, ...]] = {}
    channels: int = 0
    name: str = ""

    def modality(self, channel: int) -> str | None:
        """Return the modality of a channel; one with an unknown name is like the first, unless that is CT."""
        first, *_ = self.modalities or (None,)
        own = self.modalities[channel] if channel < len(self.modalities) else None
        return own or (first if channel == 0 or first != "CT" or len(self.modalities) == 1 else None)


def read_dataset_json(path: str) -> dict[str, Any]:
    """Read a `dataset.json` in the form of the Decathlon or nnU-Net; meant for a sandbox.

    Names that are not plain words become `class 1`, so that no free text of the source is stored.

    Returns:
        The JSON form of `DatasetJson`.

    Raises:
        DataError: with reason unreadable_descriptor.
    """
    try:
        with open_regular(Path(path)) as stream:
            text = stream.read(_MAX_JSON_BYTES + 1)
        content = parse_json(text) if len(text) <= _MAX_JSON_BYTES else None
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
        modalities=tuple(map(_modality, channels.values() if isinstance(channels, dict) else [channels])),
        label_names=_label_names(content.get("labels")),
        regions=_regions(content.get("labels")),
        channels=len(channels) if isinstance(channels, dict) else 0,
        name=plain_dataset_name(content.get("name")),
    ).model_dump(mode="json")


def name_of_dataset(images: Sequence[Path], declared: Mapping[Path, DatasetJson]) -> str:
    """Return the name in `dataset.json`, or in a folder such as Dataset001_Hip; "" for none or several.

    Args:
        declared: contents of the `dataset.json` files, by folder.
    """
    parents = {image.parent for image in images}
    folders = parents | {folder for parent in parents for folder in parent.parents}
    own = {one.name for folder, one in declared.items() if folder in folders}
    if len(own) == 1 and own != {""}:
        return own.pop()
    numbered = {folder.name for folder in folders if _NUMBERED.match(folder.name)}
    return plain_dataset_name(_NUMBERED.sub("", numbered.pop())) if len(numbered) == 1 else ""


def plain_dataset_name(name: Any) -> str:
    """Return a name in lower case with hyphens, as models are named; "" for none of ASCII letters."""
    text = unicodedata.normalize("NFKD", name).lower() if isinstance(name, str) else ""
    words = re.findall(r"[a-z0-9]+", "".join(char for char in text if not unicodedata.combining(char)))
    plain = "-".join(words)
    return plain if plain[:1].isalpha() and len(plain) <= _MAX_NAME else ""


def _modality(name: Any) -> str | None:
    """Translate the name of a channel (MRI, T1w, CT) to DICOM's code."""
    word = str(name).upper()
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


def _regions(labels: Any) -> dict[str, tuple[int, ...]]:
    """Accept nnU-Net's {"whole": [1, 2], "core": 2}; empty if no name has several values."""
    members = labels.items() if isinstance(labels, dict) else ()
    lists = {name: own if isinstance(own, list) else [own] for name, own in members}
    regions = {
        clean_class_name(name, number): tuple(own)
        for number, (name, own) in enumerate(lists.items())
        if own and all(isinstance(code, int) and code > 0 for code in own)
    }
    return regions if any(len(own) > 1 for own in regions.values()) else {}
