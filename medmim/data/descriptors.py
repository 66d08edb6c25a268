"""What each file of a data set is: an image, its label, or nothing of use, as the set's descriptor tells.

Descriptors are the YAML files in `data_manifests/`. Texts taken from paths here (subject, study, group)
identify patients: they become keys and are never written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim.data.descriptor_files import (
    Declared,
    Descriptor,
    by_prefix,
    known_descriptors,
    load_descriptor,
    read_declared,
)
from medmim.errors import DataError

FALLBACK = "generic"
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Case:
    """One image with all that its path tells; subject, study and group are the source's own texts.

    `study` differs for each image, unless the data set has several images of one visit.
    """

    image: Path
    label: Path | None
    subject: str
    study: str
    group: str | None
    modality: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What each file of a folder is: a case's image or label, or in `other` with the reason to skip it."""

    name: str
    cases: tuple[Case, ...]
    label_names: dict[int, str]
    other: dict[Path, str]


def find_layout(source: Path, files: Sequence[Path], *, name: str | None = None) -> Layout:
    """Tell what each of `files` is.

    Args:
        source: the folder that was given.
        files: paths below it; each ends up as a case's image, as its label, or in `other`.
        name: a shipped descriptor, or the path of a YAML file of your own; without it, the descriptor that
            recognises the paths, or `generic`: every NIfTI file is an unlabelled image.

    Raises:
        UsageError: for an unknown name or a descriptor that breaks its own rules.
        DataError: if the named descriptor finds no case, or the folder holds labels of different meaning.
    """
    paths = {path.relative_to(source).as_posix(): path for path in sorted(files)}
    descriptor = _detect(paths) if name is None else load_descriptor(name)
    other = {path: _reason(descriptor, relative) for relative, path in paths.items()}
    declared = {}
    for path in paths.values():
        if path.name == descriptor.declared:
            found = read_declared(path)
            other[path] = "descriptor" if found else "unreadable_descriptor"
            if found:
                declared[path.parent] = found
    cases = _find_cases(descriptor, paths, declared=declared)
    if name is not None and not cases:
        raise DataError(
            f"no image of '{descriptor.name}' among {len(paths)} files: expected paths like "
            f"'{descriptor.layout.example}'; check the folder, or leave out --as",
            reason="no_cases",
        )
    used = {case.image for case in cases} | {case.label for case in cases}
    names = _merge_names(descriptor, cases, declared=declared)
    return Layout(descriptor.name, cases, names, {p: reason for p, reason in other.items() if p not in used})


def _detect(paths: Mapping[str, Path]) -> Descriptor:
    for name in known_descriptors():
        descriptor = load_descriptor(name)
        if descriptor.detect and any(re.fullmatch(descriptor.detect, relative) for relative in paths):
            return descriptor
    return load_descriptor(FALLBACK)


def _find_cases(
    descriptor: Descriptor, paths: Mapping[str, Path], *, declared: Mapping[Path, Declared]
) -> tuple[Case, ...]:
    layout = descriptor.layout
    cases = []
    for relative, path in paths.items():
        groups = _groups(descriptor, relative)
        if groups is None:
            continue
        said = _said(declared, path)
        modality = said.modality if said and said.modality else by_prefix(descriptor.modality, path.name)
        cases.append(
            Case(
                image=path,
                label=paths.get(layout.label.format_map(groups)) if layout.label is not None else None,
                subject=layout.subject.format_map(groups),
                study=layout.study.format_map(groups),
                group=None if layout.group is None else layout.group.format_map(groups),
                modality=modality or "OT",
                tokens=tuple(token.format_map(groups) for token in layout.tokens),
            )
        )
    return tuple(cases)


def _groups(descriptor: Descriptor, relative: str) -> dict[str, str] | None:
    """Return the named parts of an image's path, or None for a path that is no image."""
    if any(re.fullmatch(pattern, relative) for pattern in descriptor.layout.skip.values()):
        return None
    matches = (re.fullmatch(pattern, relative) for pattern in descriptor.layout.image)
    match = next(filter(None, matches), None)
    return None if match is None else match.groupdict(default="")


def _reason(descriptor: Descriptor, relative: str) -> str:
    """Return why a file would be skipped, should no case use it."""
    for reason, pattern in descriptor.layout.skip.items():
        if re.fullmatch(pattern, relative):
            return reason
    return "not_in_layout" if relative.lower().endswith(_NIFTI) else "not_an_image"


def _said(declared: Mapping[Path, Declared], path: Path) -> Declared | None:
    """Return what the nearest folder above `path` declares."""
    return next((declared[folder] for folder in path.parents if folder in declared), None)


def _merge_names(
    descriptor: Descriptor, cases: Sequence[Case], *, declared: Mapping[Path, Declared]
) -> dict[int, str]:
    merged: dict[int, str] = {}
    for case in cases:
        if case.label is None:
            continue
        said = _said(declared, case.image)
        names = (said.label_names if said else {}) or by_prefix(descriptor.labels, case.image.name) or {}
        for number, label_name in names.items():
            if merged.setdefault(number, label_name) != label_name:
                raise DataError(
                    f"label {number} means '{merged[number]}' in one data set and '{label_name}' in another: "
                    "expected one meaning; ingest each data set by itself",
                    reason="label_names_differ",
                )
    return dict(sorted(merged.items()))
