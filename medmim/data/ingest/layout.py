"""What each file of a data set is: an image, its label, or nothing of use, as the set's descriptor tells.

Descriptors are the YAML files in `data_manifests/`. Texts taken from paths here (subject, study, group)
identify patients: they become keys and are never written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim.data.formats.annotation_files import NOTE_NAMES
from medmim.data.formats.images import PICTURE_NAMES
from medmim.data.ingest.dataset_json import DatasetJson
from medmim.data.ingest.descriptor import (
    Arrays,
    Descriptor,
    Pairs,
    by_prefix,
    known_descriptors,
    load_descriptor,
)
from medmim.errors import DataError

Read = Callable[[Sequence[Path]], Mapping[Path, DatasetJson]]

FALLBACK = "generic"
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


@dataclass(frozen=True)
class LayoutCase:
    """One image with all that its path tells; subject, study and group are the source's own texts.

    `study` differs for each image, unless the data set has several images of one visit. `parts` are further
    files that the image consists of; `spacing_mm` is that of pictures, None if nobody knows it.
    """

    image: Path
    label: Path | None
    subject: str
    study: str
    group: str | None
    modality: str
    tokens: tuple[str, ...]
    parts: tuple[Path, ...] = ()
    target: str | None = None
    healthy: bool = False
    spacing_mm: float | None = None
    subject_by_pixels: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of this case; labels may belong to several cases."""
        return (self.image, *self.parts, *((self.label,) if self.label else ()))


@dataclass(frozen=True)
class DatasetLayout:
    """What each file of a folder is: a case's image, label or part, or in `other` with the reason to skip it.

    `notes` are those of the others that may hold boxes, outlines and classes (or must, if the layout has
    `promised` so), and `arrays` those with many pictures; `finding` is the class of marks that name none.
    """

    name: str
    cases: tuple[LayoutCase, ...]
    label_names: dict[int, str]
    other: dict[Path, str]
    notes: tuple[Path, ...] = ()
    promised: bool = False
    finding: str = "finding"
    arrays: dict[Path, dict[int, str]] | None = None
    modality: str = "OT"
    boxes_from_labels: bool = False


def find_layout(source: Path, files: Sequence[Path], *, read: Read, name: str | None = None) -> DatasetLayout:
    """Tell what each of `files` is.

    Args:
        source: the folder that was given.
        files: paths below it; each ends up as a case's image, as its label, or in `other`.
        read: reads what data sets say about themselves: nothing of the source is parsed here.
        name: a shipped descriptor, or the path of a YAML file of your own; without it, the descriptor that
            recognises the paths, or `generic`: every image file is unlabelled.

    Raises:
        UsageError: for an unknown name or a descriptor that breaks its own rules.
        DataError: if the named descriptor finds no case, or the folder holds labels of different meaning.
    """
    paths = {path.relative_to(source).as_posix(): path for path in sorted(files)}
    descriptor = _detect(paths) if name is None else load_descriptor(name)
    other = {path: _reason(descriptor, relative) for relative, path in paths.items()}
    if isinstance(descriptor.layout, Arrays):
        found_arrays = _find_arrays(descriptor, descriptor.layout, paths)
        _need_some(descriptor, found_arrays, paths, named=name is not None)
        modality = descriptor.modality.get("", "OT")
        return DatasetLayout(descriptor.name, (), {}, other, arrays=found_arrays, modality=modality)
    declared = _find_declared(descriptor, paths, other, read=read)
    cases = _find_cases(descriptor, descriptor.layout, paths, declared=declared)
    _need_some(descriptor, cases, paths, named=name is not None)
    used = {path for case in cases for path in case.files}
    return DatasetLayout(
        descriptor.name,
        cases,
        _merge_names(descriptor, cases, declared=declared),
        {path: reason for path, reason in other.items() if path not in used},
        notes=_find_notes(descriptor.layout, paths, used=used) if cases else (),
        promised=bool(descriptor.layout.annotations),
        finding=descriptor.layout.finding,
        boxes_from_labels=descriptor.layout.boxes_from_labels,
    )


def _need_some(
    descriptor: Descriptor,
    found: Sequence[LayoutCase] | Mapping[Path, object],
    paths: Mapping[str, Path],
    *,
    named: bool,
) -> None:
    if named and not found:
        raise DataError(
            f"no image of '{descriptor.name}' among {len(paths)} files: expected paths like "
            f"'{descriptor.layout.example}'; check the folder, or leave out --as",
            reason="no_cases",
        )


def _detect(paths: Mapping[str, Path]) -> Descriptor:
    for name in known_descriptors():
        descriptor = load_descriptor(name)
        if descriptor.detect and any(re.fullmatch(descriptor.detect, relative) for relative in paths):
            return descriptor
    return load_descriptor(FALLBACK)


def _find_declared(
    descriptor: Descriptor, paths: Mapping[str, Path], other: dict[Path, str], *, read: Read
) -> dict[Path, DatasetJson]:
    """Read what the set says about itself, by folder, and note in `other` that these files are no images."""
    files = [path for path in paths.values() if path.name == descriptor.declared]
    found = read(files)
    other |= {path: "descriptor" if path in found else "unreadable_descriptor" for path in files}
    return {path.parent: said for path, said in found.items()}


def _find_arrays(
    descriptor: Descriptor, layout: Arrays, paths: Mapping[str, Path]
) -> dict[Path, dict[int, str]]:
    return {
        path: by_prefix(layout.named, path.name) or {}
        for relative, path in paths.items()
        if _groups(layout, relative) is not None
    }


def _find_cases(
    descriptor: Descriptor, layout: Pairs, paths: Mapping[str, Path], *, declared: Mapping[Path, DatasetJson]
) -> tuple[LayoutCase, ...]:
    shared = _shared_labels(layout, paths)
    cases = []
    for relative, path in paths.items():
        groups = _groups(layout, relative)
        if groups is None or path in shared.values():
            continue
        said = _said(declared, path)
        modality = said.modality if said and said.modality else by_prefix(descriptor.modality, path.name)
        target = None if layout.target is None else layout.targets.get(layout.target.format_map(groups))
        parts = (paths.get(part.format_map(groups)) for part in layout.parts)
        label = paths.get(layout.label.format_map(groups)) if layout.label is not None else None
        cases.append(
            LayoutCase(
                image=path,
                label=label or (shared.get(layout.visit.format_map(groups)) if layout.visit else None),
                subject=layout.subject.format_map(groups),
                study=layout.study.format_map(groups),
                group=None if layout.group is None else layout.group.format_map(groups),
                modality=modality or "OT",
                tokens=_tokens(layout, groups),
                parts=tuple(part for part in parts if part),
                target=target,
                healthy=target in layout.healthy,
                spacing_mm=layout.spacing_mm,
                subject_by_pixels=layout.subject_by_pixels,
            )
        )
    return tuple(cases)


def _tokens(layout: Pairs, groups: Mapping[str, str]) -> tuple[str, ...]:
    said = [token.format_map(groups) for token in layout.tokens]
    return tuple(word for one in said for word in layout.token_words.get(one, (one,)))


def _shared_labels(layout: Pairs, paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return label files by their visit; of several, the one that fits the first pattern."""
    found: dict[str, Path] = {}
    for pattern in map(re.compile, layout.label_files):
        for relative, path in paths.items():
            if layout.visit and (match := pattern.fullmatch(relative)):
                found.setdefault(layout.visit.format_map(match.groupdict(default="")), path)
    return found


def _find_notes(layout: Pairs, paths: Mapping[str, Path], *, used: set[Path]) -> tuple[Path, ...]:
    """Return the files that may hold marks: those of the layout, or all that could, beside pictures."""
    if layout.annotations:
        patterns = [re.compile(pattern) for pattern in layout.annotations]
        return tuple(path for relative, path in paths.items() if any(p.fullmatch(relative) for p in patterns))
    if not any(path.name.lower().endswith(PICTURE_NAMES) for path in used):
        return ()
    return tuple(
        path for path in paths.values() if path.name.lower().endswith(NOTE_NAMES) and path not in used
    )


def _groups(layout: Pairs | Arrays, relative: str) -> dict[str, str] | None:
    """Return the named parts of an image's path, or None for a path that is no image."""
    if any(re.fullmatch(pattern, relative) for pattern in layout.skip.values()):
        return None
    matches = (re.fullmatch(pattern, relative) for pattern in layout.image)
    match = next(filter(None, matches), None)
    return None if match is None else match.groupdict(default="")


def _reason(descriptor: Descriptor, relative: str) -> str:
    """Return why a file would be skipped, should no case use it."""
    for reason, pattern in descriptor.layout.skip.items():
        if re.fullmatch(pattern, relative):
            return reason
    return "not_in_layout" if relative.lower().endswith((*_VOLUMES, *PICTURE_NAMES)) else "not_an_image"


def _said(declared: Mapping[Path, DatasetJson], path: Path) -> DatasetJson | None:
    """Return what the nearest folder above `path` declares."""
    return next((declared[folder] for folder in path.parents if folder in declared), None)


def _merge_names(
    descriptor: Descriptor, cases: Iterable[LayoutCase], *, declared: Mapping[Path, DatasetJson]
) -> dict[int, str]:
    merged: dict[int, str] = {}
    annotated = isinstance(descriptor.layout, Pairs) and bool(descriptor.layout.annotations)
    for case in cases:
        said = _said(declared, case.image)
        names = (said.label_names if said else {}) or by_prefix(descriptor.labels, case.image.name) or {}
        for number, label_name in names.items() if case.label or annotated else ():
            if merged.setdefault(number, label_name) != label_name:
                raise DataError(
                    f"label {number} means '{merged[number]}' in one data set and '{label_name}' in another: "
                    "expected one meaning; ingest each data set by itself",
                    reason="label_names_differ",
                )
    return dict(sorted(merged.items()))
