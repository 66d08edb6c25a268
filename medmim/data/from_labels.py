"""Label files that name a series (or an image): each goes to the volumes that it lies on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medmim.data import sop
from medmim.data.accept import read_label
from medmim.data.bench import READ_LIMITS, Bench, Made, place_of, stem_of
from medmim.data.dicom_labels import read_labels
from medmim.data.from_nifti import put_label
from medmim.data.from_objects import Object, read_objects
from medmim.data.from_tables import with_tables
from medmim.data.sandbox import Answer
from medmim.data.scan import Seen


def is_label(path: Path, seen: Seen, *, folder: Path | None, series: set[str]) -> bool:
    """Say whether a file is a label by itself: its kind, its name, or where it lies says so.

    Args:
        path: the file.
        seen: what the scan found.
        folder: the folder of labels, if there is one.
        series: all series of the source.
    """
    if seen.reason == sop.LABEL or path.suffix.lower() == ".csv":
        return True
    inside = folder is not None and path.is_relative_to(folder)
    return (seen.nifti or seen.reason == "volume_file") and (inside or stem_of(path) in series)


def with_labels(
    bench: Bench, made: Sequence[Made], labels: Mapping[int, Path], seen: Mapping[int, Seen]
) -> list[Made]:
    """Attach label files to volumes; a refused label leaves its volume unlabelled.

    A series with several volumes: the label goes to each volume whose grid it lies on.

    Args:
        bench: where to work.
        made: all volumes.
        labels: label files by number: DICOM's own label objects, tables, and volumes called
            `<SeriesInstanceUID>.nii.gz` or as the image file.
        seen: what the scan found of them, by number.
    """
    tables = {number: path for number, path in labels.items() if path.suffix.lower() == ".csv"}
    objects = {number: path for number, path in labels.items() if seen[number].reason == sop.LABEL}
    volumes = {
        number: path for number, path in labels.items() if number not in tables and number not in objects
    }
    known = read_objects(bench, objects)
    names = {number: stem_of(path) for number, path in volumes.items()}
    pairs = _pairs(bench, made, {**names, **{number: one.series for number, one in known.items()}})
    files = [pair for pair in pairs if pair.number not in known]
    tasks = [_task(bench, labels[pair.number], made[pair.place]) for pair in files]
    answers = bench.each("labels", read_label, tasks, limits=READ_LIMITS)
    drawn = [pair for pair in pairs if pair.number in known]
    tasks = [
        _task(bench, labels[pair.number], made[pair.place]) | {"numbers": known[pair.number].numbers}
        for pair in drawn
    ]
    answers += bench.each("labels", read_labels, tasks, limits=READ_LIMITS)
    result = _attach(bench, made, [*files, *drawn], answers=answers, objects=known)
    return with_tables(bench, result, tables)


@dataclass(frozen=True)
class _Pair:
    """A label file, and the place of a volume that it may belong to."""

    number: int
    place: int


def _pairs(bench: Bench, made: Sequence[Made], names: Mapping[int, str]) -> list[_Pair]:
    """Return which label may belong to which volume; those that cannot be used get their fate."""
    known = _by_name(made)
    taken: set[str] = set()
    pairs: list[_Pair] = []
    for number, name in sorted(names.items()):
        if name in taken or any(made[place].volume.label for place in known.get(name, ())):
            bench.ledger.put([number], "quarantined", "label_duplicate")
        elif name not in known:
            bench.ledger.put([number], "quarantined", "label_without_image")
        else:
            taken.add(name)
            pairs += [_Pair(number, place) for place in known[name]]
    return pairs


def _attach(
    bench: Bench,
    made: Sequence[Made],
    pairs: Sequence[_Pair],
    *,
    answers: Sequence[Answer],
    objects: Mapping[int, Object],
) -> list[Made]:
    found: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for pair, answer in zip(pairs, answers, strict=True):
        facts = answer.value or {"reason": answer.reason or "unusable", "measured": {}}
        found.setdefault(pair.number, []).append((pair.place, facts))
    result = list(made)
    for number, tried in found.items():
        fitting = [(place, facts) for place, facts in tried if "reason" not in facts]
        place, facts = (fitting or tried)[0]
        put_label(bench, number, made[place].volume.id, facts)
        for place, facts in fitting:
            names = objects[number].names if number in objects else {}
            result[place] = _labelled(bench, made[place], facts, names=names)
    return result


def _by_name(made: Sequence[Made]) -> dict[str, list[int]]:
    """Return places of volumes by label name; volumes of several series with one name are nobody's."""
    series = Counter(name for name, _ in {(one.name, one.volume.series) for one in made})
    known: dict[str, list[int]] = {}
    for place, one in enumerate(made):
        if series[one.name] == 1:
            known.setdefault(one.name, []).append(place)
    return known


def _task(bench: Bench, label: Path, made: Made) -> dict[str, Any]:
    return {
        "label": str(bench.file(label)),
        "image": str(made.staged),
        "target": str(bench.staged(f"{made.volume.id}.label.nii.gz")),
        "resample": bench.wishes.resample_labels,
    }


def _labelled(bench: Bench, made: Made, facts: Mapping[str, Any], *, names: Mapping[int, str]) -> Made:
    volume = made.volume
    update: dict[str, Any] = {
        "label": place_of("labels", volume.subject, volume.study, volume.id),
        "label_sha256": facts["sha256"],
    }
    if facts.get("resampled"):
        update |= {"repairs": (*volume.repairs, "label_resampled"), "verdict": "repaired"}
    return replace(
        made,
        volume=volume.model_copy(update=update),
        staged_label=bench.staged(f"{volume.id}.label.nii.gz"),
        classes=tuple(facts["values"]),
        class_names=names,
    )
