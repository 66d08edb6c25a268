"""Names of predictions that lead back to their source, and the private table of source files.

NIfTI files and pictures give their predictions their own names; DICOM series are named by keys, as their
paths often contain names of patients. `sources.csv`, for the user alone, maps every source file to its key.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.ingest.sources import walk
from medmim.text_formats import csv_text

SOURCES = "sources.csv"
_COLUMNS = ("source", "fate", "reason", "patient", "volume", "prediction")
_IMAGES = ("volume", "picture")  # reasons of accepted files whose voxels became a volume
_CHANNEL = re.compile(r"_0000$")  # nnU-Net's mark of the first channel of a case


def output_names(
    dataset: Dataset, rows: Sequence[Mapping[str, Any]], paths: Mapping[int, Path], *, channels: bool
) -> dict[str, str]:
    """Return the name of each volume's predictions, a path below the output folder without an ending.

    Paths of the source files are relative to the source; a case of several files is named by its first one.
    """
    images = {
        row["volume"]: paths[row["number"]] for row in rows if _is_image(row) and row["number"] in paths
    }
    names = {one.id: _name(one, images.get(one.id), channels=channels) for one in dataset.volumes}
    parts: dict[str, list[str]] = defaultdict(list)
    for volume, name in names.items():
        parts[name].append(volume)
    for name, volumes in parts.items():
        endings = {volume: "".join(_endings(images[volume])) for volume in volumes if volume in images}
        clash = len(volumes) > 1
        different = len(set(endings.values())) == len(volumes)
        for number, volume in enumerate(sorted(volumes) if clash else ()):
            names[volume] = f"{name}{endings[volume]}" if different else f"{name}_{number + 1}"
    return names


def paths_of(source: Path) -> dict[int, Path]:
    """Return the paths of the files of a source by their number in its ledger, relative to the source."""
    return {one.number: one.path.relative_to(source) for one in walk(source)}


def write_sources(
    out: Path,
    volumes: Sequence[VolumeRecord],
    rows: Sequence[Mapping[str, Any]],
    paths: Mapping[int, Path],
    names: Mapping[str, str],
) -> None:
    """Write `sources.csv`: a row for each source file, or for each folder of slices of one volume."""
    patients = {one.id: one.subject for one in volumes}
    stacks = {one.id for one in volumes if one.slices}
    table: dict[tuple[str, ...], None] = {}
    for row in rows:
        path, volume = paths.get(row["number"]), row["volume"] or ""
        if path is None:
            continue
        place = f"{path.parent}{os.sep}" if volume in stacks else str(path)
        predicted = names.get(volume, "") if _is_image(row) else ""
        table[place, row["fate"], row["reason"], patients.get(volume, ""), volume, predicted] = None
    rows_of_table = [dict(zip(_COLUMNS, row, strict=True)) for row in table]
    content = csv_text(rows_of_table, _COLUMNS).encode()
    files.write_bytes(out / SOURCES, content, mode=0o600)


def _is_image(row: Mapping[str, Any]) -> bool:
    return bool(row["fate"] == "accepted" and row["reason"] in _IMAGES and row["volume"])


def _name(volume: VolumeRecord, path: Path | None, *, channels: bool) -> str:
    if volume.slices:
        return f"{volume.subject}/{volume.id}"
    if path is None:
        return volume.id
    name = path.name.removesuffix("".join(_endings(path)))
    name = _CHANNEL.sub("", name) if channels else name
    return str(path.parent / name)


def _endings(path: Path) -> list[str]:
    """Return the last ending, or two for compressed files; dots in the name of a case are no endings."""
    return path.suffixes[-2:] if path.suffix in (".gz", ".bz2") else path.suffixes[-1:]
