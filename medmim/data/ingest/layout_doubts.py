"""Warnings about images: channels and labels that lack, patients that splits may share, and mixed units."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from medmim.data.dataset.splits import SPLIT_WORDS
from medmim.data.ingest.cases import DatasetLayout, LayoutCase
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.path_words import identity, split_words

_CHANNEL = "channel"


def layout_doubts(cases: Sequence[LayoutCase]) -> list[dict[str, Any]]:
    """Return the warnings; they contain counts only."""
    return [*_incomplete_visits(cases), *_names_in_two_splits(cases)]


def _incomplete_visits(cases: Iterable[LayoutCase]) -> list[dict[str, Any]]:
    """Return a warning if visits have fewer channels than the dataset declares, or than other visits."""
    visits: dict[tuple[str, str], set[str]] = defaultdict(set)
    declared = 0
    for case in cases:
        if own := {token for token in case.tokens if token.startswith(_CHANNEL)}:
            visits[case.subject, case.study] |= own
            declared = max(declared, case.declared_channels)
    expected = max([declared, *map(len, visits.values())])
    lacking = sum(len(own) < expected for own in visits.values())
    if not lacking:
        return []
    return [{"kind": "visits_lack_channels", "visits": lacking, "total": len(visits), "channels": expected}]


def _names_in_two_splits(cases: Iterable[LayoutCase]) -> list[dict[str, Any]]:
    """Return a warning if folders of several splits have patients of one name, which count as several."""
    known: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for case in cases:
        words = [word for word in identity(split_words(case.subject)) if word not in SPLIT_WORDS]
        if case.split and words:
            known[tuple(words)][case.subject] = case.split
    shared = [found for found in known.values() if len(set(found.values())) > 1]
    return [{"kind": "names_in_two_splits", "names": len(shared), "total": len(known)}] if shared else []


def unlabelled_contrasts(
    layout: DatasetLayout | None, made: Sequence[IngestedVolume]
) -> list[dict[str, Any]]:
    """Return a warning if every labelled patient also has the same number of images without a label.

    Args:
        made: the volumes; without any, the cases of the layout are looked at.
    """
    images = [(one.volume.subject, one.volume.label is not None) for one in made]
    images = images or [(case.subject, bool(case.labels)) for case in (layout.cases if layout else ())]
    labelled = {subject for subject, has_label in images if has_label}
    without = Counter(subject for subject, has_label in images if not has_label and subject in labelled)
    if len(labelled) < 2 or set(without) != labelled or len(set(without.values())) > 1:
        return []
    return [{"kind": "contrast_without_label", "images": without.total(), "patients": len(labelled)}]


def mixed_units(made: Sequence[IngestedVolume]) -> list[dict[str, Any]]:
    """Return a warning for each modality whose values have several units, such as Bq/ml and SUV."""
    units: dict[str, Counter[str]] = {}
    for one in made:
        unit = one.volume.flags.get("unit", "not stated" if one.volume.modality == "PT" else "hu")
        units.setdefault(one.volume.modality, Counter())[unit] += 1
    return [
        {
            "kind": "mixed_units",
            "modality": modality,
            "listed": ", ".join(f"{unit} {count}" for unit, count in sorted(own.items())),
        }
        for modality, own in sorted(units.items())
        if len(own) > 1
    ]
