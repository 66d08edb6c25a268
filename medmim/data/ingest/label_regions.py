"""Labels with overlapping classes (`--overlap regions`): codes of their combinations, equal in all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from medmim.data.dataset.manifest import RegionRecord
from medmim.data.formats.overlapping_classes import Combinations, recode_label
from medmim.data.ingest.context import READ_LIMITS, IngestContext, IngestedVolume


@dataclass(frozen=True)
class RegionLabel:
    """A label with its final codes, or the reason why there is none.

    Attributes:
        facts: entries of the label, or `reason` and `measured`.
        names: name of each code that occurs: those of its classes.
        regions: codes of each class, by its name.
    """

    facts: Mapping[str, Any]
    names: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]


def recode_labels(
    context: IngestContext, labels: Mapping[Path, Combinations], names: Mapping[int, str]
) -> dict[Path, RegionLabel]:
    """Give every combination of classes one code in all labels, and rewrite the labels in the staging folder.

    A class alone keeps its number; combinations follow after the largest number.

    Args:
        labels: staged labels, with the classes of their codes 1, 2, ….
    """
    known = {**names, **context.options.label_names}
    found = sorted({tuple(one) for own in labels.values() for one in own}, key=lambda one: (len(one), one))
    free = count(max([*known, *(number for one in found for number in one)], default=0) + 1)
    codes = {one: one[0] if len(one) == 1 else next(free) for one in found}
    tasks = [
        {"label": str(path), "codes": [codes[tuple(one)] for one in own]} for path, own in labels.items()
    ]
    answers = context.each("labels", recode_label, tasks, limits=READ_LIMITS)
    words = {number: known.get(number, f"class {number}") for one in found for number in one}
    named = {codes[one]: " + ".join(words[number] for number in one) for one in found}
    regions = {
        word: tuple(sorted(code for one, code in codes.items() if number in one))
        for number, word in words.items()
    }
    return {
        path: RegionLabel(
            answer.value or {"reason": answer.reason or "unusable", "measured": {}},
            {code: named[code] for code in (answer.value or {}).get("values", ())},
            regions,
        )
        for path, answer in zip(labels, answers, strict=True)
    }


def region_records(
    made: Sequence[IngestedVolume], earlier: Sequence[RegionRecord] = ()
) -> tuple[RegionRecord, ...]:
    """Return the regions of a dataset, those with more codes first: a region precedes the ones inside it.

    Args:
        earlier: regions of the sources that are kept.
    """
    codes = {one.name: set(one.codes) for one in earlier}
    for name, own in (pair for one in made for pair in one.regions.items()):
        codes.setdefault(name, set()).update(own)
    ordered = sorted(codes.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return tuple(RegionRecord(name=name, codes=tuple(sorted(own))) for name, own in ordered)
