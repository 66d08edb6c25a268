"""Warnings about the cases of a layout: visits that lack a channel, and patients that splits may share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from medmim.data.dataset.splits import SPLIT_WORDS
from medmim.data.ingest.cases import LayoutCase
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
