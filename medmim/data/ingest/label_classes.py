"""Classes of the label files of an undescribed layout: numbers in one file, or one file for each class."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmim.data.ingest.infer_roles import AmbiguousLayoutError, Candidate, Examine, Roles, examine_all
from medmim.data.ingest.path_words import identity, is_label_word, numbered_words, split_words

_RATERS = {"rater", "reader", "observer", "annotator", "expert", "experts", "r", "obs", "v", "version"}
_LEVEL = re.compile(r"[a-z]{1,2}\d{1,2}")  # of the spine, such as l1 and th12
_Names = dict[Path, dict[Path, str]]  # by image and label file


@dataclass(frozen=True)
class LabelClasses:
    """Label files of each image, and class names.

    Each label file comes with the number of the class that it marks, or 0 if it contains class numbers.
    """

    labels: dict[Path, tuple[tuple[Path, int], ...]]
    names: dict[int, str]


def infer_label_classes(roles: Roles, examine: Examine) -> LabelClasses:
    """Number the classes of files that mark one class each; other files contain class numbers.

    Raises:
        AmbiguousLayoutError: if the files of one visit may be several readings of the same finding, or their
            class numbers may mean different classes.
    """
    known = {one.path: one for found in roles.labels.values() for one in found}
    plain: _Names = {path: _names_of(roles.images[path], found) for path, found in roles.labels.items()}
    visits: dict[tuple[str, ...], dict[Path, str]] = defaultdict(dict)
    for path, found in plain.items():
        visits[roles.images[path].words.key] |= found
    separate = [found for found in visits.values() if len(found) > 1 and _differ(found, plain)]
    if not separate:
        return LabelClasses({path: tuple((one, 0) for one in found) for path, found in plain.items()}, {})
    examine_all([known[one] for found in visits.values() for one in found], examine)
    for found in separate:
        _check_separate(found, known)
    if (
        len(separate) > 1
        and max(Counter(name for found in separate for name in found.values()).values()) == 1
    ):
        # no name occurs in two images, so the files are instances of one class
        plain = {path: dict.fromkeys(found, "") for path, found in plain.items()}
    used = {one for found in separate for one in found}
    named = [one for found in visits.values() for one, name in found.items() if name]
    used |= {one for one in named if _is_binary(known[one])}
    chosen = _with_numbers(plain, known)
    classes = sorted({name for found in chosen.values() for one, name in found.items() if one in used})
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    labels = {
        path: tuple((one, numbers[name] if one in used else 0) for one, name in found.items())
        for path, found in chosen.items()
    }
    return LabelClasses(labels, {number: name or f"class {number}" for name, number in numbers.items()})


def _names_of(image: Candidate, labels: Sequence[Candidate]) -> dict[Path, str]:
    """Return the words of each label file that its image does not have, without numbers.

    Files of equal names are distinguished by the words of their folders, as in `left_mask/1.png`.
    """
    own = {*image.words.key, *image.words.stem_words}
    names = {one.path: " ".join(word for word in one.words.slot_words if word not in own) for one in labels}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    folders = {
        one.path: [word for word in _folder_words(one) if word not in own]
        for one in labels
        if names[one.path] in twice
    }
    if len(set(map(tuple, folders.values()))) < 2:
        return names
    return {path: " ".join([*folders.get(path, ()), *name.split()]) for path, name in names.items()}


def _folder_words(label: Candidate) -> list[str]:
    words = identity([word for part in label.words.unit for word in split_words(part)])
    return [word for word in words if not word.isdecimal()]


def _differ(found: Mapping[Path, str], plain: _Names) -> bool:
    """Return whether the labels of a visit belong to one image, or are named differently."""
    shared = any(len(found.keys() & one.keys()) > 1 for one in plain.values())
    return shared or len(set(found.values())) > 1


def _is_binary(label: Candidate) -> bool:
    return label.facts is not None and len(label.facts.classes or ()) <= 1


def _check_separate(found: Mapping[Path, str], known: Mapping[Path, Candidate]) -> None:
    """Require that every file of a visit marks one class in its name, or a part of the only class."""
    words = [name.split() for name in found.values()]
    sides = {"l", "r"} <= {word for one in words for word in one}
    readers = any((set(one) & _RATERS) - ({"r"} if sides else set()) for one in words)
    binary = all(_is_binary(known[path]) for path in found)
    stems = [known[path].words.stem_words for path in found]
    places = {(name, path.parent) for path, name in found.items()}
    copied = len(places) > len({name for name, _ in places})
    kinds = {frozenset(filter(is_label_word, stem)) for stem in stems}  # a mask and its part have one
    if readers or copied or not binary or (not all(words) and (any(words) or len(kinds) > 1)):
        raise AmbiguousLayoutError(
            f"the {len(found)} label files of one image or visit mark different classes",
            "they mark the same finding, by several readers or with several methods",
            "keep one of them: exclude the others with --role 'GLOB=skip'",
        )


def _with_numbers(plain: _Names, known: Mapping[Path, Candidate]) -> _Names:
    """Return the names of classes, with numbers if these separate classes rather than parts of one class.

    They do if every image with several files has the same ones, of several classes, as rib_left_1 and
    rib_left_2. Levels of the spine always keep their numbers.
    """
    numbered = {
        path: {
            one: [
                *(word for word in name.split() if word not in known[one].words.stem_words),
                *numbered_words(known[one].words.stem, name.split()),
            ]
            for one, name in found.items()
        }
        for path, found in plain.items()
    }
    several = [path for path, found in plain.items() if len(found) > 1]
    sets = {frozenset(map(tuple, numbered[path].values())) for path in several}
    fixed = len(sets) == 1 and len({name for path in several for name in plain[path].values()}) > 1
    return {
        path: {
            one: " ".join(words) if fixed or any(map(_LEVEL.fullmatch, words)) else plain[path][one]
            for one, words in found.items()
        }
        for path, found in numbered.items()
    }
