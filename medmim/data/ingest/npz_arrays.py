"""Volumes from NumPy archives of many images, as in MedMNIST, with their splits and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import Fate, VolumeRecord
from medmim.data.formats.npz import PARTS, count_arrays, read_arrays
from medmim.data.ingest.cases import DatasetLayout
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stored_path

_AT_ONCE = 512


@dataclass(frozen=True)
class _Piece:
    """Consecutive entries of one part of a file: the first of them, and their volume ids."""

    path: Path
    part: str
    first: int
    ids: tuple[str, ...]


def volumes_from_arrays(
    context: IngestContext, source: Path, *, layout: DatasetLayout, numbers: Mapping[Path, int]
) -> list[IngestedVolume]:
    """Return a volume for every entry of the layout's array files, in the split that the file gives.

    The files do not identify patients, so each entry counts as a patient of its own.
    """
    paths = list(layout.arrays or ())
    counts = context.each(
        "arrays", count_arrays, [{"path": str(context.file(path))} for path in paths], limits=READ_LIMITS
    )
    known = dict(zip(paths, counts, strict=True))
    pieces = [piece for path in paths for piece in _pieces(context, source, path, known[path].value or {})]
    tasks = [
        {
            "path": str(context.file(piece.path)),
            "part": piece.part,
            "first": piece.first,
            "targets": [str(context.staged(f"{name}.nii.gz")) for name in piece.ids],
        }
        for piece in pieces
    ]
    answers = context.each("read", read_arrays, tasks, limits=READ_LIMITS)
    made: list[IngestedVolume] = []
    lost: dict[Path, str] = {
        path: known[path].reason or "unusable" for path in paths if not known[path].value
    }
    kinds = ("images", "images_refused", "images_without_single_class")
    read: dict[Path, dict[str, float]] = {path: dict.fromkeys(kinds, 0.0) for path in paths}
    for piece, answer in zip(pieces, answers, strict=True):
        if answer.value is None:
            lost[piece.path] = answer.reason or "unusable"
        for name, facts in zip(piece.ids, answer.value or (), strict=False):
            read[piece.path]["images" if "reason" not in facts else "images_refused"] += 1
            if "reason" not in facts:
                read[piece.path]["images_without_single_class"] += facts["class"] is None
                made.append(_accept(context, piece, name, facts=facts, layout=layout))
    for path in paths:
        fate: Fate = "quarantined" if path in lost else "accepted"
        context.ledger.record([numbers[path]], fate, lost.get(path, "arrays"), measured=read[path])
    return [one for one in made if one.name not in {str(path) for path in lost}]


def _pieces(context: IngestContext, source: Path, path: Path, counts: Mapping[str, int]) -> Iterator[_Piece]:
    place = str(path.relative_to(source))
    for part, count in counts.items():
        names = [context.file_keys.key("volume", f"{place}#{part}/{entry}") for entry in range(count)]
        for first in range(0, count, _AT_ONCE):
            yield _Piece(path, part, first, tuple(names[first : first + _AT_ONCE]))


def _accept(
    context: IngestContext, piece: _Piece, name: str, *, facts: Mapping[str, Any], layout: DatasetLayout
) -> IngestedVolume:
    subject, study = context.file_keys.key("subject", name), context.file_keys.key("study", name)
    number = facts["class"]
    names = (layout.arrays or {})[piece.path]
    volume = VolumeRecord(
        id=name,
        subject=subject,
        study=study,
        series=context.file_keys.key("series", str(piece.path)),
        image=stored_path("volumes", subject, study, name),
        modality=layout.modality,
        spatial_dims=2 if facts["shape"][2] == 1 else 3,
        shape=tuple(facts["shape"]),
        spacing_mm=tuple(facts["spacing_mm"]),
        orientation=facts["orientation"],
        sha256=facts["sha256"],
        pixels_sha256=facts["pixels_sha256"],
        perceptual_hash=facts["perceptual_hash"],
        verdict="repaired" if facts["repairs"] else "right",
        repairs=tuple(facts["repairs"]),
        target=None if number is None else names.get(number, f"class {number}"),
        targets={names.get(place, f"class {place}"): value for place, value in enumerate(facts["classes"])},
        split=PARTS[piece.part],
        flags={"spacing": "unknown"},
    )
    return IngestedVolume(volume, str(piece.path), context.staged(f"{name}.nii.gz"))
