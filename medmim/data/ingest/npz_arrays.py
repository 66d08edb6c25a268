"""Files of NumPy arrays that hold many pictures or small volumes, with their splits and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import Fate, VolumeRecord
from medmim.data.formats.npz import PARTS, count_arrays, read_arrays
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume, stored_path
from medmim.data.ingest.layout import DatasetLayout

_AT_ONCE = 512


@dataclass(frozen=True)
class _Piece:
    """Some entries of one part of a file: the first, how many, and the ids that they get."""

    path: Path
    part: str
    first: int
    ids: tuple[str, ...]


def volumes_from_arrays(
    bench: IngestContext, source: Path, *, layout: DatasetLayout, numbers: Mapping[Path, int]
) -> list[IngestedVolume]:
    """Make a volume of every entry of the array files of a layout; the split that a file gives is kept.

    Nobody knows which entries are of one patient: each counts as a patient of its own.
    """
    paths = list(layout.arrays or ())
    counts = bench.each(
        "arrays", count_arrays, [{"path": str(bench.file(path))} for path in paths], limits=READ_LIMITS
    )
    known = dict(zip(paths, counts, strict=True))
    pieces = [piece for path in paths for piece in _pieces(bench, source, path, known[path].value or {})]
    tasks = [
        {
            "path": str(bench.file(piece.path)),
            "part": piece.part,
            "first": piece.first,
            "targets": [str(bench.staged(f"{name}.nii.gz")) for name in piece.ids],
        }
        for piece in pieces
    ]
    answers = bench.each("read", read_arrays, tasks, limits=READ_LIMITS)
    made: list[IngestedVolume] = []
    lost: dict[Path, str] = {
        path: known[path].reason or "unusable" for path in paths if not known[path].value
    }
    read: dict[Path, dict[str, float]] = {path: {"images": 0.0, "images_refused": 0.0} for path in paths}
    for piece, answer in zip(pieces, answers, strict=True):
        if answer.value is None:
            lost[piece.path] = answer.reason or "unusable"
        for name, facts in zip(piece.ids, answer.value or (), strict=False):
            read[piece.path]["images" if "reason" not in facts else "images_refused"] += 1
            if "reason" not in facts:
                made.append(_accept(bench, piece, name, facts=facts, layout=layout))
    for path in paths:
        fate: Fate = "quarantined" if path in lost else "accepted"
        bench.ledger.put([numbers[path]], fate, lost.get(path, "arrays"), measured=read[path])
    return [one for one in made if one.name not in {str(path) for path in lost}]


def _pieces(bench: IngestContext, source: Path, path: Path, counts: Mapping[str, int]) -> Iterator[_Piece]:
    place = str(path.relative_to(source))
    for part, count in counts.items():
        names = [bench.keys.key("volume", f"{place}#{part}/{entry}") for entry in range(count)]
        for first in range(0, count, _AT_ONCE):
            yield _Piece(path, part, first, tuple(names[first : first + _AT_ONCE]))


def _accept(
    bench: IngestContext, piece: _Piece, name: str, *, facts: Mapping[str, Any], layout: DatasetLayout
) -> IngestedVolume:
    subject, study = bench.keys.key("subject", name), bench.keys.key("study", name)
    number = facts["class"]
    names = (layout.arrays or {})[piece.path]
    volume = VolumeRecord(
        id=name,
        subject=subject,
        study=study,
        series=bench.keys.key("series", str(piece.path)),
        image=stored_path("volumes", subject, study, name),
        modality=layout.modality,
        spatial_dims=2 if facts["shape"][2] == 1 else 3,
        shape=tuple(facts["shape"]),
        spacing_mm=tuple(facts["spacing_mm"]),
        orientation=facts["orientation"],
        sha256=facts["sha256"],
        pixels_sha256=facts["pixels_sha256"],
        verdict="repaired" if facts["repairs"] else "right",
        repairs=tuple(facts["repairs"]),
        target=None if number is None else names.get(number, f"class {number}"),
        split=PARTS[piece.part],
        flags={"spacing": "unknown"},
    )
    return IngestedVolume(volume, str(piece.path), bench.staged(f"{name}.nii.gz"))
