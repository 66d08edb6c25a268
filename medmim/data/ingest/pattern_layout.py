"""Cases of a described layout: images and labels that match the patterns of a descriptor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.dataset_json import DatasetJson
from medmim.data.ingest.descriptor import Arrays, Descriptor, Pairs, by_prefix
from medmim.data.ingest.path_words import contrast_of


def pattern_cases(
    descriptor: Descriptor, layout: Pairs, paths: Mapping[str, Path], *, declared: Mapping[Path, DatasetJson]
) -> tuple[LayoutCase, ...]:
    """Return the images that match the patterns of a descriptor, with their labels."""
    shared = _shared_labels(layout, paths)
    cases = []
    for relative, path in paths.items():
        groups = match_image(layout, relative)
        if groups is None or path in shared.values():
            continue
        declaration = declaration_for(declared, path)
        tokens = _tokens(layout, groups)
        modality = modality_of(descriptor, path, declared, tokens)
        target = None if layout.target is None else layout.targets.get(layout.target.format_map(groups))
        parts = (paths.get(part.format_map(groups)) for part in layout.parts)
        label = paths.get(layout.label.format_map(groups)) if layout.label is not None else None
        label = label or (shared.get(layout.visit.format_map(groups)) if layout.visit else None)
        cases.append(
            LayoutCase(
                image=path,
                labels=((label, 0),) if label else (),
                subject=layout.subject.format_map(groups),
                study=layout.study.format_map(groups),
                group=None if layout.group is None else layout.group.format_map(groups),
                modality=modality or "OT",
                tokens=tokens,
                parts=tuple(part for part in parts if part),
                target=target,
                healthy=target in layout.healthy,
                spacing_mm=layout.spacing_mm,
                subject_by_pixels=layout.subject_by_pixels,
                declared_channels=declaration.channels if declaration else 0,
            )
        )
    return tuple(cases)


def _tokens(layout: Pairs, groups: Mapping[str, str]) -> tuple[str, ...]:
    words = [token.format_map(groups) for token in layout.tokens]
    return tuple(word for one in words for word in layout.token_words.get(one, contrast_of(one) or (one,)))


def _shared_labels(layout: Pairs, paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return the label file of each visit; of several, the one that matches the first pattern."""
    found: dict[str, Path] = {}
    for pattern in map(re.compile, layout.label_files):
        for relative, path in paths.items():
            if layout.visit and (match := pattern.fullmatch(relative)):
                found.setdefault(layout.visit.format_map(match.groupdict(default="")), path)
    return found


def match_image(layout: Pairs | Arrays, relative: str) -> dict[str, str] | None:
    """Return the named groups of an image's path, or None if the path is not an image."""
    if any(re.fullmatch(pattern, relative) for pattern in layout.skip.values()):
        return None
    matches = (re.fullmatch(pattern, relative) for pattern in layout.image)
    match = next(filter(None, matches), None)
    return None if match is None else match.groupdict(default="")


def modality_of(
    descriptor: Descriptor, path: Path, declared: Mapping[Path, DatasetJson], tokens: Sequence[str]
) -> str | None:
    """Return the modality that `dataset.json` or the descriptor gives to an image."""
    declaration = declaration_for(declared, path)
    named: str | None = by_prefix(descriptor.modality, path.name)
    numbers = [int(word.removeprefix("channel")) for word in tokens if word.startswith("channel")]
    of_channel = declaration.modality(*(numbers or [0])[:1]) if declaration else None
    return of_channel or named


def declaration_for(declared: Mapping[Path, DatasetJson], path: Path) -> DatasetJson | None:
    """Return the content of the nearest dataset.json above `path`."""
    return next((declared[folder] for folder in path.parents if folder in declared), None)
