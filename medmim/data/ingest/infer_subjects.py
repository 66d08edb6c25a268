"""Patients of an undescribed layout: from the user's rule, from folders, or from file names.

A patient must never be split over two subjects. If folders and file names suggest different patients,
`AmbiguousLayoutError` shows both readings.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from medmim.data.ingest.infer_roles import AmbiguousLayoutError, Candidate
from medmim.data.ingest.path_words import (
    PARTS,
    PATIENT_WORDS,
    SITE_WORDS,
    VISIT_WORDS,
    contrast_of,
    identity,
    split_words,
)

FolderKind = Literal["patient", "visit", "other", "unknown"]
_BIDS = re.compile(r"sub-[A-Za-z0-9]+(?=_|$)")
_DATE = re.compile(r"(19|20)\d{6}|\d{4}[-_.]\d{2}[-_.]\d{2}|\d{2}[-_.]\d{2}[-_.]\d{4}.*")


def infer_subjects(
    images: Sequence[Candidate], everything: Sequence[Candidate]
) -> tuple[dict[Path, str], bool]:
    """Return the patient of each image, and whether every image counts as a patient because none is known.

    Args:
        everything: images and labels, which show which folders repeat the same set of files.

    Raises:
        AmbiguousLayoutError: if folders and file names suggest different patients.
    """
    if names := _bids_subjects(images):
        return names, False
    roots = {one.words.unit[:1] for one in images}
    level = _patient_level([one for one in everything if one.words.unit[:1] in roots])
    if level is not None:
        inside = [one for one in images if len(one.words.unit) > level]
        outside = [one for one in images if len(one.words.unit) <= level]
        by_folder = {one.path: "/".join(one.words.unit[: level + 1]) for one in inside}
        return _merge_visits(inside, by_folder) | _by_name(outside), False
    texts = _by_name(images)
    alone = len(set(texts.values())) == len(images)
    return texts, alone and len(images) > 1


def patients_of_visits(images: Sequence[Candidate]) -> dict[Path, str]:
    """Return one patient for each visit, where who the patient is does not matter.

    Raises:
        AmbiguousLayoutError: if CT and MR images may be of one visit.
    """
    visits: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for one in images:
        visits[one.words.key].append(one)
    for members in visits.values():
        _refuse_ct_and_mr(members)
    return {one.path: "/".join(one.words.key) for one in images}


def _bids_subjects(images: Sequence[Candidate]) -> dict[Path, str]:
    """Return the patients of images that are all named as in BIDS, with the folders above the patient's."""
    found: dict[Path, str] = {}
    for one in images:
        if not (match := _BIDS.match(one.words.stem)):
            return {}
        named = [match.group().removeprefix("sub-") in part for part in one.words.unit]
        above = one.words.unit[: named.index(True)] if any(named) else one.words.unit
        found[one.path] = "/".join([*above, match.group()])
    return found


def _by_name(images: Sequence[Candidate]) -> dict[Path, str]:
    """Return patients from the tokens of paths; images that only differ in contrast are of one patient.

    So are images whose names continue that of another one with words, as 7_flipped continues 7.
    """
    cut = visit_cut(list(dict.fromkeys(one.words.key for one in images)))
    keys = {one.words.key[:cut] for one in images}
    groups: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for one in images:
        groups[_continued(one.words.key[:cut], keys)].append(one)
    texts: dict[Path, str] = {}
    for key, members in groups.items():
        _refuse_ct_and_mr(members)
        kinds = {(one.words.key, one.words.contrasts, one.words.channel) for one in members}
        distinct = len(kinds) == len(members) or cut is not None
        for one in members:
            bids = _BIDS.match(one.words.stem)
            own = "/".join([*one.words.unit, bids.group() if bids else one.words.stem])
            texts[one.path] = own if len(members) == 1 or not distinct else " ".join(key)
    return texts


def _continued(key: tuple[str, ...], keys: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the shortest key with a number that `key` continues with words only, or `key`."""
    ends = [end for end in range(1, len(key)) if not any(word.isdecimal() for word in key[end:])]
    numbered = [key[:end] for end in ends if any(map(str.isdecimal, key[:end]))]
    return next((start for start in numbered if start in keys), key)


def _refuse_ct_and_mr(members: Sequence[Candidate]) -> None:
    """Stop if CT and MR images in different folders have the same names."""
    ct, mr = ({one.words.unit for one in members if name in one.words.contrasts} for name in ("ct", "mr"))
    if ct and mr and not ct & mr:
        raise AmbiguousLayoutError(
            "CT and MR images in different folders are of one patient if their names agree",
            "they are of different patients",
            "decide with --subject-pattern, such as '(\\d+)\\D*$' for (1) or '(.+)' for (2), or with "
            "--subjects table.csv (columns file, subject)",
        )


def _merge_visits(images: Sequence[Candidate], subjects: Mapping[Path, str]) -> dict[Path, str]:
    """Merge folders that are visits of one patient by their names, such as p01_v1 and p01_v2."""
    names = {subject: tuple(identity(split_words(subject))) for subject in set(subjects.values())}
    cut = visit_cut(list(dict.fromkeys(names.values())))
    if cut is None:
        return dict(subjects)
    return {one.path: " ".join(names[subjects[one.path]][:cut]) for one in images}


def visit_cut(keys: Sequence[tuple[str, ...]]) -> int | None:
    """Return how many tokens identify the patient, if the rest are visits or slices; None for all.

    Raises:
        AmbiguousLayoutError: if the names can be read with and without visits.
    """
    longest = max((len(key) for key in keys), default=0)
    for cut in range(1, longest):
        long = [key for key in keys if len(key) > cut and key[cut - 1].isdecimal()]
        groups = Counter(key[:cut] for key in long)
        if len(groups) < 2 or len(groups) == len(long):
            continue
        following = {key[cut] for key in long}
        before = {key[cut - 2] if cut > 1 else "" for key in long}
        if before & SITE_WORDS or following & PATIENT_WORDS:
            continue
        if following <= VISIT_WORDS:
            return cut
        raise AmbiguousLayoutError(
            f"{len(keys)} names that begin alike are {len(groups)} patients with several scans each",
            f"they are {len(keys)} patients",
            "decide with --subject-pattern, such as '([^/]*?)_[^_/]*$' for (1), '([^/]+)$' for (2), or with "
            "--subjects table.csv (columns file, subject)",
        )
    return None


def _patient_level(everything: Sequence[Candidate]) -> int | None:
    """Return the depth of the folders that are patients; None if patients are not folders.

    Raises:
        AmbiguousLayoutError: if folders may be patients or collections of patients.
    """
    depth = max((len(one.words.unit) for one in everything), default=0)
    kinds = [_folder_kind(everything, level) for level in range(depth)]
    if "patient" in kinds:
        level = kinds.index("patient")
        return (
            level + 1
            if kinds[level + 1 : level + 2] == ["patient"] and _are_buckets(everything, level)
            else level
        )
    for level, kind in enumerate(kinds):
        if kind == "unknown" and "visit" in kinds[level + 1 :]:
            return level
        if kind == "unknown":
            folders = len({one.words.unit[: level + 1] for one in everything if len(one.words.unit) > level})
            raise AmbiguousLayoutError(
                f"folders at level {level + 1} ({folders}) are patients",
                "they are collections, and every file or file name is a patient",
                "decide with --subject-pattern: '^" + "[^/]+/" * level + "([^/]+)/' for (1), '(.+)' for (2)",
            )
    return None


def _are_buckets(everything: Sequence[Candidate], level: int) -> bool:
    """Return whether the numbers of folders continue those of the folders above, as in p10/p10000032."""
    pairs = {one.words.unit[level : level + 2] for one in everything if len(one.words.unit) > level + 1}
    return all(name.startswith(above) and name[len(above) :].isdecimal() for above, name in pairs)


def _folder_kind(everything: Sequence[Candidate], level: int) -> FolderKind:
    """Return what the folders of one level are."""
    members: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for one in everything:
        if len(one.words.unit) > level:
            members[one.words.unit[: level + 1]].append(one)
    names = sorted({unit[-1] for unit in members})
    if kind := _kind_of_names(names):
        return kind
    digits = all(any(char.isdigit() for char in name) for name in names)
    repeated = {_repeats(unit, found) for unit, found in members.items()}
    if len(members) == 1:
        return "patient" if digits and repeated == {"once"} and len(everything) > 1 else "other"
    if repeated == {"once"}:
        return _kind_of_single_sets(members, digits=digits)
    if repeated == {"visits"} or (digits and _names_repeat(members)):
        return "patient"
    return "other" if "patients" in repeated or not digits else "unknown"


def _kind_of_names(names: Sequence[str]) -> FolderKind | None:
    """Return the kind of folders whose names are known words, such as ses-1, train or patient01."""
    words = {name: split_words(name) for name in names}
    plain = {name: {word for word in split if not word.isdecimal()} for name, split in words.items()}
    if all(_DATE.fullmatch(name) or (plain[name] and plain[name] <= VISIT_WORDS) for name in names):
        return "visit"
    contrasts = all(any(map(contrast_of, split)) for split in words.values())
    if contrasts and len({tuple(identity(split)) for split in words.values()}) == 1:
        return "other"
    if all(plain[name] & (SITE_WORDS | PARTS) for name in names):
        return "other"
    digits = all(any(char.isdigit() for char in name) for name in names)
    return "patient" if digits and all(own & PATIENT_WORDS for own in plain.values()) else None


def _kind_of_single_sets(
    members: Mapping[tuple[str, ...], Sequence[Candidate]], *, digits: bool
) -> FolderKind:
    """Return the kind of folders that contain every kind of file once."""
    several = any(sum(one.role != "label" for one in found) > 1 for found in members.values())
    signatures = Counter(frozenset(map(_slot, found)) for found in members.values())
    alike = signatures.most_common(1)[0][1] > 1
    return "patient" if digits or alike or several else "other"


def _slot(one: Candidate) -> tuple[object, ...]:
    """Return what a file is within its folder: its words, contrast, channel and role."""
    return tuple(one.words.slot_words), one.words.contrasts, one.words.channel, one.role


def _repeats(
    unit: tuple[str, ...], found: Sequence[Candidate]
) -> Literal["once", "visits", "patients", "digits"]:
    """Return whether a folder has several files of one kind, and what distinguishes them."""
    slots: dict[tuple[object, ...], list[Candidate]] = defaultdict(list)
    for one in [one for one in found if one.role == "image"] or found:
        slots[_slot(one)].append(one)
    several = [files for files in slots.values() if len(files) > 1]
    if not several:
        return "once"
    words = {word for files in several for one in files for word in one.words.slot_words}
    deeper = {part for files in several for one in files for part in one.words.unit[len(unit) :]}
    below = {one.words.unit[len(unit)] for one in found if len(one.words.unit) > len(unit)}
    visits = bool(below) and _kind_of_names(sorted(below)) == "visit"
    if visits or words & VISIT_WORDS or any(_DATE.fullmatch(part) for part in deeper):
        return "visits"
    named = {word for part in deeper for word in split_words(part)} | words
    return "patients" if named & PATIENT_WORDS else "digits"


def _names_repeat(members: Mapping[tuple[str, ...], Sequence[Candidate]]) -> bool:
    """Return whether the file names begin with the name of their folder, as in TCGA_01/TCGA_01_3.tif."""
    return all(
        one.words.stem.lower().startswith(unit[-1].lower())
        for unit, found in members.items()
        for one in found
    )
