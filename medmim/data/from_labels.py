"""Label files that carry the name of a series (or of an image): each goes to the volumes that it lies on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medmim.data.accept import read_label
from medmim.data.bench import READ_LIMITS, Bench, Made, place_of, stem_of
from medmim.data.from_nifti import put_label


def with_labels(bench: Bench, made: Sequence[Made], labels: Mapping[int, Path]) -> list[Made]:
    """Attach label files to volumes; a refused label leaves its volume unlabelled.

    A series with several volumes: the label goes to each volume whose grid it lies on.

    Args:
        bench: where to work.
        made: all volumes.
        labels: label files by number, called `<SeriesInstanceUID>.nii.gz` or as the image file.
    """
    known = _by_name(made)
    taken: set[str] = set()
    pairs: list[tuple[int, int]] = []
    for number, path in sorted(labels.items()):
        name = stem_of(path)
        if name in taken or any(made[place].volume.label for place in known.get(name, ())):
            bench.ledger.put([number], "quarantined", "label_duplicate")
        elif name not in known:
            bench.ledger.put([number], "quarantined", "label_without_image")
        else:
            taken.add(name)
            pairs += [(number, place) for place in known[name]]
    tasks = [_task(bench, labels[number], made[place]) for number, place in pairs]
    answers = bench.each("labels", read_label, tasks, limits=READ_LIMITS)
    found: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for (number, place), answer in zip(pairs, answers, strict=True):
        facts = answer.value or {"reason": answer.reason or "unusable", "measured": {}}
        found.setdefault(number, []).append((place, facts))
    result = list(made)
    for number, tried in found.items():
        fitting = [(place, facts) for place, facts in tried if "reason" not in facts]
        place, facts = (fitting or tried)[0]
        put_label(bench, number, made[place].volume.id, facts)
        for place, facts in fitting:
            result[place] = _labelled(bench, made[place], facts)
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
    target = bench.staged(f"{made.volume.id}.label.nii.gz")
    return {"label": str(label), "image": str(made.staged), "target": str(target)}


def _labelled(bench: Bench, made: Made, facts: Mapping[str, Any]) -> Made:
    volume = made.volume
    update = {
        "label": place_of("labels", volume.subject, volume.study, volume.id),
        "label_sha256": facts["sha256"],
    }
    return replace(
        made,
        volume=volume.model_copy(update=update),
        staged_label=bench.staged(f"{volume.id}.label.nii.gz"),
        classes=tuple(facts["values"]),
    )
