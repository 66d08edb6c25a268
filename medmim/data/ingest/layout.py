"""Layout of a dataset: the role of every file (image, label, annotations) according to a descriptor.

Texts taken from paths here (subject, study, group) identify patients: they become keys and are never written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim.data.formats.annotation_files import ANNOTATION_SUFFIXES
from medmim.data.formats.images import PICTURE_SUFFIXES
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
    """One image and what its path implies; subject, study and group are texts of the source.

    Images with the same `study` belong to one visit. `parts` are further files with voxels of the image;
    `spacing_mm` is the pixel spacing of pictures, if it is known.
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
        """All files of the case; a label may belong to several cases."""
        return (self.image, *self.parts, *((self.label,) if self.label else ()))


@dataclass(frozen=True)
class DatasetLayout:
    """Roles of the files of a dataset.

    Attributes:
        name: name of the descriptor.
        cases: images with their labels.
        label_names: name of each class number.
        other: reason to skip each file that does not belong to a case.
        notes: other files that may contain annotations.
        promised: whether `notes` must be annotations, because the descriptor names them.
        finding: class of marks without a class.
        arrays: NumPy archives with the names of their classes.
        modality: modality of the images in `arrays`.
        boxes_from_labels: whether connected components of labels become boxes.
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
    """Return the role of each file.

    Args:
        source: folder that paths are relative to.
        files: paths below it; each becomes an image, a label or part of a case, or is in `other`.
        read: reads `dataset.json` files in a sandbox; no file of the source is parsed here.
        name: a shipped descriptor, or the path of a YAML file; by default the descriptor that recognises the
            paths, or `generic`.

    Raises:
        UsageError: for an unknown or invalid descriptor.
        DataError: if the named descriptor finds no image, or one class number has two names.
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
            f"'{descriptor.layout.example}'; check the folder, or omit --as",
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
    """Read the dataset.json files, by folder, and add them to `other`."""
    files = [path for path in paths.values() if path.name == descriptor.declared]
    found = read(files)
    other |= {path: "descriptor" if path in found else "unreadable_descriptor" for path in files}
    return {path.parent: declaration for path, declaration in found.items()}


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
        declaration = _declared_for(declared, path)
        modality = (
            declaration.modality
            if declaration and declaration.modality
            else by_prefix(descriptor.modality, path.name)
        )
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
    words = [token.format_map(groups) for token in layout.tokens]
    return tuple(word for one in words for word in layout.token_words.get(one, (one,)))


def _shared_labels(layout: Pairs, paths: Mapping[str, Path]) -> dict[str, Path]:
    """Return the label file of each visit; of several, the one that matches the first pattern."""
    found: dict[str, Path] = {}
    for pattern in map(re.compile, layout.label_files):
        for relative, path in paths.items():
            if layout.visit and (match := pattern.fullmatch(relative)):
                found.setdefault(layout.visit.format_map(match.groupdict(default="")), path)
    return found


def _find_notes(layout: Pairs, paths: Mapping[str, Path], *, used: set[Path]) -> tuple[Path, ...]:
    """Return the files that may contain annotations: those of the descriptor, else any next to pictures."""
    if layout.annotations:
        patterns = [re.compile(pattern) for pattern in layout.annotations]
        return tuple(path for relative, path in paths.items() if any(p.fullmatch(relative) for p in patterns))
    if not any(path.name.lower().endswith(PICTURE_SUFFIXES) for path in used):
        return ()
    return tuple(
        path
        for path in paths.values()
        if path.name.lower().endswith(ANNOTATION_SUFFIXES) and path not in used
    )


def _groups(layout: Pairs | Arrays, relative: str) -> dict[str, str] | None:
    """Return the named groups of an image's path, or None if the path is not an image."""
    if any(re.fullmatch(pattern, relative) for pattern in layout.skip.values()):
        return None
    matches = (re.fullmatch(pattern, relative) for pattern in layout.image)
    match = next(filter(None, matches), None)
    return None if match is None else match.groupdict(default="")


def _reason(descriptor: Descriptor, relative: str) -> str:
    """Return the reason to skip a file that no case uses."""
    for reason, pattern in descriptor.layout.skip.items():
        if re.fullmatch(pattern, relative):
            return reason
    return "not_in_layout" if relative.lower().endswith((*_VOLUMES, *PICTURE_SUFFIXES)) else "not_an_image"


def _declared_for(declared: Mapping[Path, DatasetJson], path: Path) -> DatasetJson | None:
    """Return the content of the nearest dataset.json above `path`."""
    return next((declared[folder] for folder in path.parents if folder in declared), None)


def _merge_names(
    descriptor: Descriptor, cases: Iterable[LayoutCase], *, declared: Mapping[Path, DatasetJson]
) -> dict[int, str]:
    merged: dict[int, str] = {}
    annotated = isinstance(descriptor.layout, Pairs) and bool(descriptor.layout.annotations)
    for case in cases:
        declaration = _declared_for(declared, case.image)
        names = (
            (declaration.label_names if declaration else {})
            or by_prefix(descriptor.labels, case.image.name)
            or {}
        )
        for number, label_name in names.items() if case.label or annotated else ():
            if merged.setdefault(number, label_name) != label_name:
                raise DataError(
                    f"label {number} is '{merged[number]}' in one dataset and '{label_name}' in another: "
                    "expected one meaning; ingest each dataset separately",
                    reason="label_names_differ",
                )
    return dict(sorted(merged.items()))
