"""Cases of an undescribed layout: images with labels, patients, visits, contrasts, channels and splits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from medmim.data.dataset.manifest import Split
from medmim.data.dataset.splits import SPLIT_WORDS
from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.dataset_json import DatasetJson
from medmim.data.ingest.infer_roles import AmbiguousLayoutError, Candidate, Examine, infer_roles, is_body_mask
from medmim.data.ingest.infer_subjects import infer_subjects, patients_of_visits
from medmim.data.ingest.label_classes import infer_label_classes
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.data.ingest.path_words import (
    MODALITIES,
    PARTS,
    SITE_WORDS,
    PathWords,
    Role,
    bare_name,
    folder_role,
    is_label_word,
    paired_folders,
    split_words,
    word_set,
)
from medmim.errors import DataError

_NNUNET = re.compile(r"(.+)_(\d{4})")
_LAST_CHANNEL = "0009"
_MODALITIES = {**MODALITIES, **dict.fromkeys(("t1", "t2", "flair", "dwi", "adc", "pd", "swi", "mr"), "MR")}
_CLASSES = word_set(
    "benign malignant normal abnormal tumor tumour healthy disease positive covid negative yes no pneumonia "
    "glioma meningioma pituitary notumor lesion"
)


@dataclass(frozen=True)
class CaseInference:
    """Cases of an undescribed layout.

    Attributes:
        cases: images with their labels.
        other: reason to skip each of the other volumes and pictures.
        label_names: classes of datasets with one label file for each class.
        label_like: number of files that look like labels but are not used.
        anonymous: whether every image counts as a patient because none is known.
    """

    cases: tuple[LayoutCase, ...]
    other: dict[Path, str]
    label_names: dict[int, str]
    label_like: int
    anonymous: bool


def infer_cases(
    paths: Mapping[str, Path],
    *,
    examine: Examine,
    declared: Mapping[Path, DatasetJson],
    rules: InferenceRules,
) -> CaseInference:
    """Return the cases of volumes and pictures, by their names and, where these leave doubt, their values.

    Args:
        paths: volumes and pictures by path below the source.
        declared: content of `dataset.json` files by folder.

    Raises:
        AmbiguousLayoutError: if two readings remain possible.
        DataError: if the user's rules do not fit the files.
    """
    candidates = _candidates(paths, declared, rules.channels)
    roles = infer_roles(candidates, examine, rules.roles, expects_labels=rules.expects_labels)
    images = list(roles.images.values())
    classes = infer_label_classes(roles, examine)
    labels = classes.labels
    subjects, anonymous = _subjects(images, candidates, rules)
    targets, studies = _targets(images, rules), _studies(images)
    splits = _splits(images, set(labels))
    cases = tuple(
        LayoutCase(
            image=one.path,
            labels=labels.get(one.path, ()),
            subject=subjects[one.path],
            study=studies[one.path],
            group=None,
            modality=next(
                (_MODALITIES[word] for word in sorted(one.words.contrasts & set(_MODALITIES))), "OT"
            ),
            tokens=_tokens(one),
            target=targets.get(one.path),
            split=splits.get(one.path),
        )
        for one in images
    )
    unused = sum(reason in ("label_without_image", "body_mask") for reason in roles.other.values())
    return CaseInference(cases, roles.other, classes.names, unused, anonymous)


def _subjects(
    images: Sequence[Candidate], candidates: Sequence[Candidate], rules: InferenceRules
) -> tuple[dict[Path, str], bool]:
    """Return the patient of each image, and whether every image counts as one because none is known."""
    if rules.subjects:
        named = rules.subjects.subjects([one.words.relative for one in images])
        return {one.path: named[one.words.relative] for one in images}, False
    try:
        return infer_subjects(images, [one for one in candidates if one.role in ("image", "label")])
    except AmbiguousLayoutError:
        if rules.expects_labels:
            raise
        return patients_of_visits(images), False


def _candidates(
    paths: Mapping[str, Path], declared: Mapping[Path, DatasetJson], known: int
) -> list[Candidate]:
    """Return the files with the roles that their names give; `known` is `InferenceRules.channels`."""
    declares = max((one.channels for one in declared.values()), default=0)
    channels = _numbered(paths) if known else nnunet_channels(list(paths), declares=declares)
    folders = _folder_readings(list(paths))
    words = {relative: PathWords(relative, channels.get(relative), folders) for relative in paths}
    return [Candidate(path, words[relative], words[relative].role) for relative, path in paths.items()]


def _folder_readings(relatives: Sequence[str]) -> dict[str, tuple[Role | None, str]]:
    """Return the roles of folders whose names alone would mislead.

    A folder has no role if only some of its file names contain label words, which then decide, or if it is
    named like a label and contains all files. Sibling folders that differ in their role have roles.
    """
    named: dict[str, set[bool]] = defaultdict(set)
    for relative in relatives:
        words = PathWords(relative)
        if not is_body_mask(words):
            named[str(PurePosixPath(relative).parent)].add(any(map(is_label_word, words.stem_words)))
    above = {str(one) for folder in named for one in (PurePosixPath(folder), *PurePosixPath(folder).parents)}
    shared = [one for one in above if all(PurePosixPath(each).is_relative_to(one) for each in named)]
    neutral = {folder for folder, found in named.items() if len(found) == 2}
    neutral |= {folder for folder in shared if folder_role(PurePosixPath(folder).name) == "label"}
    readings = paired_folders(above)
    return readings | {folder: (None, PurePosixPath(folder).name) for folder in neutral}


def nnunet_channels(relatives: Sequence[str], *, declares: int) -> dict[str, int]:
    """Return nnU-Net's channel number of each image, if `_0000` at the end of names is a channel.

    It is one if every case has a channel 0 and the labels are named without it, or, without labels, the
    dataset declares channels or several cases have the same channels.

    Args:
        relatives: paths below the source.
        declares: number of channels that `dataset.json` declares.
    """
    stems: dict[tuple[str, str], tuple[str, str]] = {}
    labels: set[str] = set()
    for relative in relatives:
        path = PurePosixPath(relative)
        bare = bare_name(path.name)
        if any(folder_role(part) == "label" for part in path.parts[:-1]):
            labels.add(bare)
        elif match := _NNUNET.fullmatch(bare):
            stems[str(path.parent), bare] = match.group(1), match.group(2)
    sets: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (folder, _), (base, number) in stems.items():
        sets[folder, base].add(number)
    if not sets or any("0000" not in found or max(found) > _LAST_CHANNEL for found in sets.values()):
        return {}
    bases = {base for _, base in sets}
    if labels:
        agrees = bool(labels & bases) and not labels & {bare for _, bare in stems}
    else:
        equal = len({frozenset(found) for found in sets.values()}) == 1
        agrees = len(sets) > 1 and equal and (declares > 0 or len(next(iter(sets.values()))) > 1)
    if not agrees:
        return {}
    places = ((relative, PurePosixPath(relative)) for relative in relatives)
    keys = {relative: (str(path.parent), bare_name(path.name)) for relative, path in places}
    return {relative: int(stems[key][1]) for relative, key in keys.items() if key in stems}


def _numbered(relatives: Iterable[str]) -> dict[str, int]:
    """Return the channel number of each image whose name ends in _0000 to _0009."""
    ends = {relative: _NNUNET.fullmatch(bare_name(PurePosixPath(relative).name)) for relative in relatives}
    return {relative: int(one[2]) for relative, one in ends.items() if one and one[2] <= _LAST_CHANNEL}


def _studies(images: Sequence[Candidate]) -> dict[Path, str]:
    """Return the visit of each image: images with the same key and different contrasts are one visit."""
    visits: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for one in images:
        visits[one.words.key].append(one)
    studies: dict[Path, str] = {}
    for key, found in visits.items():
        distinct = len({(one.words.contrasts, one.words.channel, one.words.stem) for one in found}) == len(
            found
        )
        for one in found:
            own = bare_name(one.words.relative)
            studies[one.path] = "/".join(key) if distinct and len(found) > 1 else own
    return studies


def _tokens(one: Candidate) -> tuple[str, ...]:
    channel = [] if one.words.channel is None else [f"channel{one.words.channel}"]
    return (*sorted(one.words.contrasts), *channel)


def _targets(images: Sequence[Candidate], rules: InferenceRules) -> dict[Path, str]:
    """Return the class of each image where the innermost folders are classes.

    Folder names may be names of patients, so they count as classes only on request, if they are known words,
    or if the same folders occur below train and test.
    """
    folders = {one.path: one.words.unit[-1] for one in images if one.words.unit}
    names = set(folders.values())
    if len(folders) < len(images) or len(names) < 2:
        return {}
    parents: dict[str, set[str]] = defaultdict(set)
    for one in images:
        if set(one.words.unit[:-1]) and split_words(one.words.unit[-2])[0] in PARTS:
            parents[one.words.unit[-2]].add(one.words.unit[-1])
    repeated = len(parents) > 1 and all(found == names for found in parents.values())
    known = all(set(split_words(name)) & _CLASSES for name in names)
    other = any(set(split_words(name)) & (PARTS | SITE_WORDS) for name in names)
    if not rules.class_folders and (other or not (known or repeated)):
        return {}
    if len({name.lower() for name in names}) < len(names):
        pairs = pairwise(sorted(names, key=lambda name: (name.lower(), name)))
        first, second = next(pair for pair in pairs if pair[0].lower() == pair[1].lower())
        raise DataError(
            f"the folders of classes '{first}' and '{second}' differ in case only: expected one name of each "
            "class; rename one of them",
            reason="classes_alike",
        )
    return {path: name.lower() for path, name in folders.items()}


def _splits(images: Sequence[Candidate], labelled: set[Path]) -> dict[Path, Split]:
    """Return the split that folders such as imagesTs/ give, unless only some of them have labels."""
    found = {one.path: SPLIT_WORDS[one.words.split_words[0]] for one in images if one.words.split_words}
    annotated = {found[path] for path in labelled if path in found}
    several = set(found.values())
    whole = len(found) == len(images) and len(several) > 1 and (not labelled or annotated == several)
    return found if whole else {}
