"""The result of `medmim predict`: predictions by volume, failures, and names that lead back to the source.

NIfTI files and pictures give their predictions their own names; DICOM series are named by keys, as their
paths often contain names of patients. `sources.csv`, for the user alone, maps every source file to its key.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim import files
from medmim.data.dataset.channels import ChannelStack, channels_of
from medmim.data.dataset.manifest import Dataset, VolumeRecord
from medmim.data.ingest.sources import walk
from medmim.notebook import NotebookResult, Table, read_picture
from medmim.stages.predict.outputs import OUTPUTS, VolumePrediction
from medmim.text_formats import csv_text, natural_order
from medmim.training.tasks.trained_model import TrainedModel


@dataclass(frozen=True)
class Predictions(NotebookResult):
    """The predictions of a model for a source.

    Attributes:
        model: name and task of the model, and the SHA-256 of its weights.
        failures: reason codes of volumes without a prediction, by id.
        dicom: for each segmented volume `written`, or the reason why there is no DICOM-SEG.
        files: reason codes of quarantined source files, by their number in the sorted list of files.
        names: name of each volume's output files, by id.
        warnings: reasons not to rely on the predictions, such as scans of another modality.
        forced: volumes that were predicted although they do not resemble the training data, with the reason.
    """

    out: Path
    model: Mapping[str, str]
    volumes: Mapping[str, VolumePrediction]
    failures: Mapping[str, str] = field(default_factory=dict)
    dicom: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    forced: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> Table:
        """Return a row for each volume: its prediction, or why there is none."""
        outcomes = {key: one.summary for key, one in self.volumes.items()} | dict(self.failures)
        return [["volume", "prediction"], *([self.name(key), text] for key, text in outcomes.items())]

    def name(self, volume: str) -> str:
        """Return the name of a volume's output files."""
        return self.names.get(volume, volume)

    def remarks(self) -> Sequence[str]:
        """Return the model, the output folder and the warnings."""
        return [f"model {self.model['name']}", f"predictions {self.out}", *self.warnings]

    def picture(self) -> bytes | None:
        """Return the picture of the first volume."""
        return read_picture(self.out / "pictures" / f"{self.name(next(iter(self.volumes), ''))}.png")

    def as_json(self) -> dict[str, Any]:
        """Return the output of `--json`."""
        return {
            "predictions": str(self.out),
            "model": dict(self.model),
            "volumes": len(self.volumes) + len(self.failures),
            "predicted": sorted(self.volumes),
            "names": dict(self.names),
            "failures": dict(self.failures),
            "dicom": dict(self.dicom),
            "files": {str(number): reason for number, reason in self.files.items()},
            "warnings": list(self.warnings),
            "forced": dict(self.forced),
        }


INDEX = "predictions.json"
SOURCES = "sources.csv"
_OURS = ("segmentations", "probabilities", "dicom", "pictures", "ledger.jsonl", SOURCES)
_COLUMNS = ("source", "fate", "reason", "patient", "volume", "prediction")
_IMAGES = ("volume", "picture")  # reasons of accepted files whose voxels became a volume
_CHANNEL = re.compile(r"_000\d$")  # nnU-Net's mark of a channel of a case


def clear(out: Path) -> None:
    """Remove the outputs of an earlier prediction, whose volumes may not be in this source."""
    if not (out / INDEX).is_file():
        return
    (out / INDEX).unlink()
    for name in (*_OURS, *(one.table for one in OUTPUTS.values())):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def write_names(trained: TrainedModel, dataset: Dataset, scans: Path | None, out: Path) -> dict[str, str]:
    """Return the name of each volume's predictions, and write the table of source files.

    Args:
        scans: source of the dataset; None: it is given as it is, and keys are the names.
    """
    if scans is None:
        return {volume.id: volume.id for volume in dataset.volumes}
    rows, paths = list(files.read_jsonl(out / "ledger.jsonl")), paths_of(scans)
    cases, rest = trained.cases(dataset, incomplete=True)
    names = output_names((*cases, *rest), rows, paths)
    write_sources(out, dataset.volumes, rows, paths, names)
    return names


def output_names(
    cases: Sequence[VolumeRecord], rows: Sequence[Mapping[str, Any]], paths: Mapping[int, Path]
) -> dict[str, str]:
    """Return the name of each volume's predictions, a path below the output folder without an ending.

    The names are in the order of their numbers, `case_2` before `case_10`. Paths of the source files are
    relative to the source. A case of several files is named by its first one, without a channel's number; all
    of its volumes have that name.
    """
    images = {
        row["volume"]: paths[row["number"]] for row in rows if _is_image(row) and row["number"] in paths
    }
    names = {one.id: _name(one, images.get(one.id)) for one in cases}
    parts: dict[str, list[str]] = defaultdict(list)
    for volume, name in names.items():
        parts[name].append(volume)
    for name, volumes in parts.items():
        endings = {volume: "".join(_endings(images[volume])) for volume in volumes if volume in images}
        clash = len(volumes) > 1
        different = len(set(endings.values())) == len(volumes)
        for number, volume in enumerate(sorted(volumes) if clash else ()):
            names[volume] = f"{name}{endings[volume]}" if different else f"{name}_{number + 1}"
    names |= {channel.id: names[one.id] for one in cases for channel in channels_of(one)}
    return dict(sorted(names.items(), key=lambda pair: natural_order(pair[1])))


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
    paths_first = sorted(table, key=lambda row: natural_order(row[0]))
    rows_of_table = [dict(zip(_COLUMNS, row, strict=True)) for row in paths_first]
    content = csv_text(rows_of_table, _COLUMNS).encode()
    files.write_bytes(out / SOURCES, content, mode=0o600)


def _is_image(row: Mapping[str, Any]) -> bool:
    return bool(row["fate"] == "accepted" and row["reason"] in _IMAGES and row["volume"])


def _name(volume: VolumeRecord, path: Path | None) -> str:
    if volume.slices:
        return f"{volume.subject}/{volume.id}"
    if path is None:
        return volume.id
    name = path.name.removesuffix("".join(_endings(path)))
    name = _CHANNEL.sub("", name) if isinstance(volume, ChannelStack) else name
    return str(path.parent / name)


def _endings(path: Path) -> list[str]:
    """Return the last ending, or two for compressed files; dots in the name of a case are no endings."""
    return path.suffixes[-2:] if path.suffix in (".gz", ".bz2") else path.suffixes[-1:]
