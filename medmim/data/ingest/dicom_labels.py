"""Which series DICOM's label objects speak of, and one number for equally named segments of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim.data.dicom.read_labels import look_at_labels
from medmim.data.ingest.context import READ_LIMITS, IngestContext

Segment = tuple[int, str, str]


@dataclass(frozen=True)
class Object:
    """A label object: its series, and the class number of each of its segments (by the segment's own number).

    `names` are the classes' names as far as a standard or the user gives them; the source's own words stay
    where they are.
    """

    series: str
    numbers: dict[str, int]
    names: dict[int, str]


def read_objects(bench: IngestContext, paths: Mapping[int, Path]) -> dict[int, Object]:
    """Read what label objects say of themselves; those that cannot be read or used get their fate."""
    tasks = [{"path": str(bench.file(path))} for path in paths.values()]
    answers = bench.each("labels", look_at_labels, tasks, limits=READ_LIMITS)
    found: dict[int, tuple[str, list[Segment]]] = {}
    for number, answer in zip(paths, answers, strict=True):
        if answer.value is None:
            bench.ledger.record([number], "quarantined", answer.reason or "unusable")
            continue
        series = sorted(set(answer.value["series"]))
        segments = [(int(one[0]), str(one[1]), str(one[2])) for one in answer.value["segments"]]
        if len(series) == 1:
            found[number] = (series[0], segments)
        else:
            measured = {"series": float(len(series))}
            bench.ledger.record([number], "quarantined", "label_series_unclear", measured=measured)
    classes = _classes([segments for _, segments in found.values()], bench.options.label_names)
    return {
        number: Object(
            series,
            {str(own): classes[_word(one)] for one in segments for own in one[:1]},
            {classes[_word(one)]: one[2] for one in segments if one[2]},
        )
        for number, (series, segments) in found.items()
    }


def _classes(objects: Sequence[Sequence[Segment]], wished: Mapping[int, str]) -> dict[str, int]:
    """Give every name one number: the user's, its own where that is free, else the next free one."""
    classes = {name.lower(): number for number, name in wished.items()}
    for segments in objects:
        for one in segments:
            word = _word(one)
            if word not in classes:
                taken = set(classes.values())
                free = next(n for n in range(1, len(taken) + 2) if n not in taken)
                classes[word] = one[0] if 0 < one[0] < 2**16 and one[0] not in taken else free
    return classes


def _word(segment: Segment) -> str:
    """Return what tells classes apart: the segment's name, or its code, or its number."""
    return (segment[1].strip() or segment[2] or f"segment {segment[0]}").lower()
