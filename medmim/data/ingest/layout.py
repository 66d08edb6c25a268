"""Layout of a dataset: the role of every file (image, label, annotations) by a descriptor or by inference.

Texts taken from paths here (subject, study, group) identify patients: they become keys and are never written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medmim.data.formats.annotation_files import ANNOTATION_SUFFIXES
from medmim.data.formats.images import PICTURE_SUFFIXES
from medmim.data.ingest.cases import DatasetLayout, LayoutCase
from medmim.data.ingest.dataset_json import DatasetJson, name_of_dataset
from medmim.data.ingest.descriptor import (
    Arrays,
    Descriptor,
    InferenceLayout,
    Pairs,
    by_prefix,
    known_descriptors,
    load_descriptor,
)
from medmim.data.ingest.infer_layout import infer_cases
from medmim.data.ingest.infer_roles import Examine
from medmim.data.ingest.layout_rules import InferenceRules, SubjectRule
from medmim.data.ingest.path_words import VOLUME_NAMES, bare_name, is_label_word, split_words
from medmim.data.ingest.pattern_layout import declaration_for, match_image, modality_of, pattern_cases
from medmim.errors import DataError, counted

_SKIPPED = "skipped_by_role"
Read = Callable[[Sequence[Path]], Mapping[Path, DatasetJson]]

FALLBACK = "generic"
_VOXEL_ENDINGS = {".mhd": (".raw", ".zraw"), ".hdr": (".img", ".img.gz"), ".gz": (".img.gz", ".img")}


@dataclass(frozen=True)
class LayoutQuery:
    """What is known before the roles of files are decided.

    Attributes:
        source: folder that paths are relative to.
        read: reads `dataset.json` files in a sandbox; no file of the source is parsed here.
        examine: reads the facts of volumes in a sandbox.
        readable: files that medmim can read as volumes or pictures; all with such names by default.
        name: a shipped descriptor, or the path of a YAML file; by default the descriptor that recognises the
            paths, or `generic`.
        rules: decisions of the user about undescribed layouts.
    """

    source: Path
    read: Read
    examine: Examine = field(default=lambda paths: {})
    readable: Collection[Path] | None = None
    name: str | None = None
    rules: InferenceRules = field(default_factory=InferenceRules)


def find_layout(query: LayoutQuery, files: Sequence[Path]) -> DatasetLayout:
    """Return the role of each file: image, label or part of a case, or in `other`.

    Raises:
        UsageError: for an unknown or invalid descriptor.
        DataError: if the named descriptor finds no image, one class number has two names, or two readings of
            the layout remain possible.
    """
    paths = {path.relative_to(query.source).as_posix(): path for path in sorted(files)}
    descriptor = _detect(paths) if query.name is None else load_descriptor(query.name)
    other = {path: _reason(descriptor, relative) for relative, path in paths.items()}
    other |= {path: _SKIPPED for path in files if query.rules.skips(path, query.source)}
    if isinstance(descriptor.layout, Arrays):
        found_arrays = _find_arrays(descriptor.layout, paths)
        _need_some(descriptor, found_arrays, paths, named=query.name is not None)
        modality = descriptor.modality.get("", "OT")
        return DatasetLayout(descriptor.name, (), {}, other, arrays=found_arrays, modality=modality)
    declared = _find_declared(descriptor, paths, other, read=query.read)
    if isinstance(descriptor.layout, InferenceLayout):
        layout = _inferred(query, descriptor, descriptor.layout, paths, other=other, declared=declared)
    else:
        layout = _described(query, descriptor, descriptor.layout, paths, other=other, declared=declared)
    _need_some(descriptor, layout.cases, paths, named=query.name is not None)
    used = {path for case in layout.cases for path in case.files}
    return replace(layout, other={path: reason for path, reason in layout.other.items() if path not in used})


def _described(
    query: LayoutQuery,
    descriptor: Descriptor,
    layout: Pairs,
    paths: Mapping[str, Path],
    *,
    other: Mapping[Path, str],
    declared: Mapping[Path, DatasetJson],
) -> DatasetLayout:
    """Return the layout that the patterns of a descriptor give."""
    cases = pattern_cases(descriptor, layout, paths, declared=declared)
    if query.rules.subjects:
        relatives = {case.image: case.image.relative_to(query.source).as_posix() for case in cases}
        subjects = query.rules.subjects.subjects(list(relatives.values()))
        cases = tuple(replace(case, subject=subjects[relatives[case.image]]) for case in cases)
    used = {path for case in cases for path in case.files}
    return DatasetLayout(
        descriptor.name,
        cases,
        _merge_names(descriptor, cases, declared=declared),
        dict(other),
        notes=_find_notes(layout.annotations, paths, used=used, other=other) if cases else (),
        promised=bool(layout.annotations),
        finding=layout.finding,
        boxes_from_labels=layout.boxes_from_labels,
        label_like=_count_unused_labels(query.source, other, used),
        regions=_declared_regions(cases, declared),
    )


def _inferred(
    query: LayoutQuery,
    descriptor: Descriptor,
    layout: InferenceLayout,
    paths: Mapping[str, Path],
    *,
    other: Mapping[Path, str],
    declared: Mapping[Path, DatasetJson],
) -> DatasetLayout:
    """Return the layout that names and values of the files give."""
    images = {
        relative: path
        for relative, path in paths.items()
        if (path in query.readable if query.readable is not None else may_be_image(path))
        and other[path] not in layout.skip
        and (layout.only is None or re.fullmatch(layout.only, relative))
    }
    rules = InferenceRules(
        roles=(*layout.roles.items(), *query.rules.roles),
        subjects=query.rules.subjects or SubjectRule(pattern=layout.subject_pattern),
        class_folders=layout.class_folders or query.rules.class_folders,
        expects_labels=query.rules.expects_labels,
        channels=query.rules.channels,
    )
    found = infer_cases(images, examine=query.examine, declared=declared, rules=rules)
    completed = (_completed(descriptor, one, declared=declared) for one in found.cases)
    many = rules.channels
    cases = tuple(replace(case, declared_channels=case.declared_channels or many) for case in completed)
    used = {path for case in cases for path in case.files}
    return DatasetLayout(
        descriptor.name,
        cases,
        found.label_names or _merge_names(descriptor, cases, declared=declared),
        {**other, **found.other},
        notes=_find_notes((), paths, used=used, other=other) if cases else (),
        label_like=found.label_like + _count_unused_labels(query.source, other, {*used, *found.other}),
        anonymous=found.anonymous and descriptor.name == FALLBACK,
        task=_shared_task(descriptor, cases),
        regions=_declared_regions(cases, declared),
        called=name_of_dataset([case.image for case in cases], declared),
    )


def _declared_regions(
    cases: Iterable[LayoutCase], declared: Mapping[Path, DatasetJson]
) -> dict[str, tuple[int, ...]]:
    found = (declaration_for(declared, case.image) for case in cases if case.labels)
    return {name: members for one in found if one for name, members in one.regions.items()}


def _shared_task(descriptor: Descriptor, cases: Sequence[LayoutCase]) -> str:
    names = [case.image.name for case in cases]
    shared = [word for word in descriptor.labels if names and all(name.startswith(word) for name in names)]
    return max(shared, key=len, default="").strip("_").lower()


def _count_unused_labels(source: Path, other: Mapping[Path, str], used: Collection[Path]) -> int:
    """Return the number of files whose reason or path names a label and that no case uses."""
    names = {
        path: reason if reason != "not_in_layout" else path.relative_to(source).as_posix()
        for path, reason in other.items()
        if path not in used
    }
    return sum(any(map(is_label_word, split_words(name))) for name in names.values())


def _completed(
    descriptor: Descriptor, case: LayoutCase, *, declared: Mapping[Path, DatasetJson]
) -> LayoutCase:
    """Return an inferred case with its detached voxel file, and the modality that the dataset declares."""
    endings = _VOXEL_ENDINGS.get(case.image.suffix.lower(), ())
    header = case.image.name.lower().endswith((".mhd", ".hdr", ".hdr.gz"))
    parts = [case.image.with_name(bare_name(case.image.name) + end) for end in endings if header]
    modality = modality_of(descriptor, case.image, declared, case.tokens)
    declaration = declaration_for(declared, case.image)
    return replace(
        case,
        declared_channels=declaration.channels if declaration else 0,
        parts=tuple(part for part in parts if part.is_file()),
        modality=modality if modality and modality != "OT" else case.modality,
    )


def _need_some(
    descriptor: Descriptor,
    found: Sequence[LayoutCase] | Mapping[Path, object],
    paths: Mapping[str, Path],
    *,
    named: bool,
) -> None:
    if named and not found:
        example = f"paths like '{descriptor.layout.example}'" if descriptor.layout.example else "images"
        raise DataError(
            f"no image of '{descriptor.name}' among {counted(len(paths), 'file')}: expected {example}; "
            "check the folder, or omit --as",
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


def _find_arrays(layout: Arrays, paths: Mapping[str, Path]) -> dict[Path, dict[int, str]]:
    return {
        path: by_prefix(layout.named, path.name) or {}
        for relative, path in paths.items()
        if match_image(layout, relative) is not None
    }


def _find_notes(
    annotations: Sequence[str], paths: Mapping[str, Path], *, used: set[Path], other: Mapping[Path, str]
) -> tuple[Path, ...]:
    """Return the files that may contain annotations: those that match, or any next to pictures."""
    free = {name: path for name, path in paths.items() if other[path] != _SKIPPED}
    if annotations:
        patterns = [re.compile(pattern) for pattern in annotations]
        return tuple(path for relative, path in free.items() if any(p.fullmatch(relative) for p in patterns))
    if not any(path.name.lower().endswith(PICTURE_SUFFIXES) for path in used):
        return ()
    return tuple(
        path for path in free.values() if path.name.lower().endswith(ANNOTATION_SUFFIXES) and path not in used
    )


def _reason(descriptor: Descriptor, relative: str) -> str:
    """Return the reason to skip a file that no case uses."""
    for reason, pattern in descriptor.layout.skip.items():
        if re.fullmatch(pattern, relative):
            return reason
    return "not_in_layout" if may_be_image(Path(relative)) else "not_an_image"


def may_be_image(path: Path) -> bool:
    """Return whether the name of a file ends as those of volumes, arrays and pictures do."""
    return path.name.lower().endswith((*VOLUME_NAMES, *PICTURE_SUFFIXES))


def _merge_names(
    descriptor: Descriptor, cases: Iterable[LayoutCase], *, declared: Mapping[Path, DatasetJson]
) -> dict[int, str]:
    merged: dict[int, str] = {}
    annotated = isinstance(descriptor.layout, Pairs) and bool(descriptor.layout.annotations)
    for case in cases:
        declaration = declaration_for(declared, case.image)
        names = (
            (declaration.label_names if declaration else {})
            or by_prefix(descriptor.labels, case.image.name)
            or {}
        )
        for number, label_name in names.items() if case.labels or annotated else ():
            if merged.setdefault(number, label_name) != label_name:
                raise DataError(
                    f"label {number} is '{merged[number]}' in one dataset and '{label_name}' in another: "
                    "expected one meaning; ingest each dataset separately",
                    reason="label_names_differ",
                )
    return dict(sorted(merged.items()))
