"""Roles of volumes and pictures in an undescribed layout: images, their labels, and files to skip.

A file is a label if its name or folder indicates it, or if it contains few different small integers on the
grid of an image with a matching name. If both readings remain possible, `AmbiguousLayoutError` shows them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmim.data.ingest.layout_rules import given_role
from medmim.data.ingest.path_words import (
    PathWords,
    Role,
    contains,
    is_label_word,
    is_volume_name,
    split_words,
    word_set,
)
from medmim.data.ingest.volume_facts import VolumeFacts
from medmim.errors import DataError, counted

Examine = Callable[[Sequence[Path]], Mapping[Path, VolumeFacts]]
_BODY_WORDS = word_set("brain brainmask bet skull skullstrip foreground fg head body headmask")
_INSTANCE_WORDS = {"instance", "instances"}


class AmbiguousLayoutError(DataError):
    """A layout with two readings: the message shows both, and the options that decide."""

    def __init__(self, first: str, second: str, remedy: str) -> None:
        super().__init__(
            f"layout has two readings: (1) {first}; (2) {second}; {remedy}", reason="ambiguous_layout"
        )


@dataclass(eq=False)
class Candidate:
    """A volume or picture whose role is inferred; `facts` are None until it is examined, or unreadable."""

    path: Path
    words: PathWords
    role: Role | None
    facts: VolumeFacts | None = None
    reason: str = "not_in_layout"

    @property
    def label_like(self) -> bool:
        """Whether it contains background and a few classes."""
        return self.facts is not None and self.facts.label_like

    @property
    def few_values(self) -> bool:
        """Whether it contains a few different integers, with or without background."""
        return self.facts is not None and bool(self.facts.classes)


@dataclass(frozen=True)
class Roles:
    """Images with their label files, and the reason to skip each of the others."""

    images: dict[Path, Candidate]
    labels: dict[Path, list[Candidate]]
    other: dict[Path, str] = field(default_factory=dict)


def infer_roles(
    candidates: Sequence[Candidate],
    examine: Examine,
    given: Sequence[tuple[str, Role]],
    *,
    expects_labels: bool = True,
) -> Roles:
    """Return the role of every candidate.

    Args:
        candidates: volumes and pictures with the roles that their names give.
        given: glob and role, in the order of the command line; the last that matches counts.
        expects_labels: whether files that may be labels without images stop the ingestion.

    Raises:
        AmbiguousLayoutError: if a file may be an image or a label, or an image has labels that exclude each
            other.
    """
    apply_given(candidates, given)
    _skip_screenshots(candidates)
    active = [one for one in candidates if one.role != "skip"]
    if any(one.role is None for one in active):
        examine_all([one for one in active if one.role != "label"], examine)
        unnamed = {id(one) for one in active if one.role is None}
        _decide_by_values(active, unnamed, expects_labels=expects_labels)
    images = [one for one in active if one.role == "image"]
    index = ImageIndex(images)
    labels: dict[Path, list[Candidate]] = defaultdict(list)
    other = {one.path: one.reason for one in candidates if one.role == "skip"}
    for one in active:
        matches = index.images_of(one) if one.role == "label" else []
        for image in matches:
            labels[image.path].append(one)
        if one.role == "label" and not matches:
            other[one.path] = "label_without_image"
    for found in labels.values():
        whole = [
            one
            for one in found
            if not any(_INSTANCE_WORDS & set(split_words(part)) for part in (*one.words.unit, one.words.stem))
        ]
        other |= {one.path: "label_of_an_instance" for one in found if whole and one not in whole}
        found[:] = whole or found
    if expects_labels:
        _refuse_lost_labels(active, other)
    return Roles({one.path: one for one in images}, dict(labels), other)


def apply_given(candidates: Sequence[Candidate], given: Sequence[tuple[str, Role]]) -> None:
    """Set the roles that the user gave, and skip masks of the brain or body that the user did not name."""
    for one in candidates:
        if one.role == "label" and is_body_mask(one.words):
            one.role, one.reason = "skip", "body_mask"
        if role := given_role(one.words.relative, given):
            one.role, one.reason = role, "skipped_by_role"


def examine_all(candidates: Sequence[Candidate], examine: Examine) -> None:
    """Read the facts of candidates that have none yet."""
    facts = examine([one.path for one in candidates if one.facts is None])
    for one in candidates:
        one.facts = one.facts or facts.get(one.path)


def _skip_screenshots(candidates: Sequence[Candidate]) -> None:
    """Skip pictures in folders that contain volumes, such as previews."""
    units = {one.words.unit for one in candidates if is_volume_name(one.path.name)}
    for one in candidates:
        if not is_volume_name(one.path.name) and one.words.unit and one.words.unit in units:
            one.role, one.reason = "skip", "picture_beside_scans"


def _decide_by_values(candidates: Sequence[Candidate], unnamed: set[int], *, expects_labels: bool) -> None:
    """Set the roles of unnamed candidates from their values and those of their neighbours."""
    scans = [one for one in candidates if one.role != "label" and not one.few_values]
    index = ImageIndex(scans)
    slots: dict[tuple[object, ...], list[Candidate]] = defaultdict(list)
    for one in candidates:
        if id(one) in unnamed:
            slots[tuple(one.words.slot_words), one.words.contrasts, one.words.folder_role].append(one)
    for members in slots.values():
        labels = [one for one in members if one.few_values and _on_grid(one, index.images_of(one))]
        scan_like = [one for one in members if not one.few_values]
        if labels and not scan_like and not any(one.label_like for one in labels):
            raise AmbiguousLayoutError(
                f"{counted(len(labels), 'file')} with few different integers, none of them 0, on the grid of "
                "another image are labels without background",
                "they are images of few grey values",
                role_remedy(),
            )
        if labels and len(labels) >= len(scan_like) and scan_like:
            raise AmbiguousLayoutError(
                f"{len(labels)} of {len(members)} files with similar names are labels, because they contain "
                "few different small integers on the grid of another image",
                f"all {len(members)} are images",
                role_remedy(),
            )
        for one in members:
            one.role = "label" if one in labels and not scan_like else "image"
        label_like = [one for one in members if one.role == "image" and one.label_like]
        if expects_labels and (len(label_like) > 1 or 0 < len(candidates) <= 2 * len(label_like)):
            raise AmbiguousLayoutError(
                f"labels without images: {counted(len(label_like), 'file')} with few different small "
                "integers",
                "they are images of few grey values",
                role_remedy(),
            )


def _on_grid(label: Candidate, images: Sequence[Candidate]) -> bool:
    return any(
        image.facts is not None and label.facts is not None and label.facts.same_grid(image.facts)
        for image in images
    )


def _refuse_lost_labels(candidates: Sequence[Candidate], other: Mapping[Path, str]) -> None:
    """Stop if no label at all has an image: then the names were misread."""
    labels = [one for one in candidates if one.role == "label"]
    scans = any(one.role == "image" for one in candidates)
    if scans and len(labels) > 1 and all(other.get(one.path) == "label_without_image" for one in labels):
        raise AmbiguousLayoutError(
            f"{len(labels)} files named like labels belong to none of the images",
            "they are images too, or belong to images by a rule that is not visible in their names",
            role_remedy() + "\nname: mine\nlayout:\n  image: ['images/(?P<subject>[^/]+)\\.nii\\.gz']\n"
            '  label: "labels/{subject}_seg.nii.gz"',
        )


def role_remedy() -> str:
    """Return the options that decide roles."""
    return (
        "decide with --role 'GLOB=image', 'GLOB=label' or 'GLOB=skip', or with a YAML file passed to --as "
        "that has the patterns of images and labels"
    )


class ImageIndex:
    """Finds the images that a label belongs to, by the tokens of their paths."""

    def __init__(self, images: Sequence[Candidate]) -> None:
        self._equal: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
        self._units: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
        self._tokens: dict[str, list[Candidate]] = defaultdict(list)
        self._bags = {id(one): Counter(one.words.key) for one in images}
        for one in images:
            self._equal[one.words.key].append(one)
            self._units[one.words.unit].append(one)
            for token in set(one.words.key):
                self._tokens[token].append(one)
        self._by_rarest: dict[str, list[Candidate]] = defaultdict(list)
        for one in images:
            if one.words.key:
                self._by_rarest[min(one.words.key, key=lambda token: len(self._tokens[token]))].append(one)
        self._count = len(images)

    def images_of(self, label: Candidate) -> list[Candidate]:
        """Return the images of a label; those of its contrast, if it names one that they have."""
        found = [one for one in self._equal.get(label.words.key, []) if one is not label]
        found = found or self._nearest(label, label.words)
        found = found or self._nearest(label, label.words.without_label_number) or self._in_folder(label)
        named = [one for one in found if label.words.stem_contrasts & one.words.contrasts]
        return named or found

    def _in_folder(self, label: Candidate) -> list[Candidate]:
        """Return the images of one visit in a folder of the label, if other folders repeat them."""
        for depth in range(len(label.words.unit), 0, -1):
            folders: dict[tuple[str, ...], list[tuple[object, ...]]] = defaultdict(list)
            for unit, found in self._units.items():
                folders[unit[:depth]] += [(tuple(one.words.slot_words), one.words.contrasts) for one in found]
            own = folders.get(label.words.unit[:depth], [])
            if own:
                alike = sum(Counter(slots) == Counter(own) for slots in folders.values())
                below = [unit for unit in self._units if unit[:depth] == label.words.unit[:depth]]
                images = [one for unit in below for one in self._units[unit]]
                return images if len(set(own)) == len(own) and alike > 1 and label not in images else []
        return []

    def _nearest(self, label: Candidate, words: PathWords) -> list[Candidate]:
        """Return the images whose tokens contain or are contained in the label's, with most in common."""
        bag = Counter(words.key)
        larger = min((self._tokens.get(token, []) for token in bag), key=len, default=[])
        smaller = [one for token in bag for one in self._by_rarest.get(token, [])]
        pool = list({id(one): one for one in (*larger, *smaller)}.values())
        if not bag:
            pool = self._units[label.words.unit] if label.words.unit or self._count == 1 else []
        best: list[Candidate] = []
        score = (0, 0)
        for one in pool:
            other = self._bags[id(one)]
            if one is label or not (bag <= other or other <= bag):
                continue
            common = (sum((bag & other).values()), -abs(bag.total() - other.total()))
            if common > score or not best:
                best, score = [one], common
            elif common[0] == score[0] and (common[1] == score[1] or bag <= other):
                best.append(one)
        key = words.key  # digits of a contrast can agree by chance: 1 in a_1 and in a_2_ce1
        whole = [one for one in best if contains(one.words.key, key) or contains(key, one.words.key)]
        best = whole or best
        return best if len({one.words.unit for one in best}) <= 1 or not bag else []


def is_body_mask(words: PathWords) -> bool:
    """Return whether a label marks the brain or body, which is not a finding."""
    named = [word for word in words.stem_words if is_label_word(word)]
    return bool(named) and bool(set(words.stem_words) & _BODY_WORDS)
