"""Splits by patient: train, val and test or folds, stable when patients are added; subsets of patients."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from medmim.data.dataset.manifest import Dataset, Split, VolumeRecord, digest_of
from medmim.errors import DataError, counted

SHARES: dict[Split, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
FOLDS = 5
SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
_FILL_ORDER: tuple[Split, ...] = ("train", "test", "val")  # with two subjects, one trains and one tests


def assign_splits(
    subjects: Mapping[str, bool], old: Mapping[str, Split], groups: Mapping[str, str] | None = None
) -> dict[str, Split]:
    """Assign a split to every subject; subjects keep a split they already have.

    New subjects are processed in the order of their keys, which is random because keys are HMACs. Each goes
    to an empty split first, then to the split furthest below its share. Labelled and unlabelled subjects are
    balanced separately.

    Args:
        subjects: whether any volume of the subject has a label, by key.
        old: earlier splits; subjects that no longer exist are ignored.
        groups: first subject of those that share images, by subject; new subjects get the split of theirs.

    Returns:
        The split of each subject, sorted by key.
    """
    splits = {subject: old[subject] for subject in subjects if subject in old}
    groups = groups or {}
    shared = {groups.get(subject, subject): split for subject, split in splits.items()}
    splits = {
        one: shared[groups.get(one, one)] for one in subjects if groups.get(one, one) in shared
    } | splits
    firsts = {one for one in subjects if one in splits or groups.get(one, one) == one}
    for labelled in (True, False):
        members = sorted(
            one for one, has_label in subjects.items() if has_label is labelled and one in firsts
        )
        counts = Counter(splits[subject] for subject in members if subject in splits)
        for subject in members:
            if subject not in splits:
                splits[subject] = _neediest(counts, len(members))
                counts[splits[subject]] += 1
    return {one: splits[one if one in splits else groups[one]] for one in sorted(subjects)}


def given_splits(pairs: Iterable[tuple[str, Split | None]]) -> dict[str, Split]:
    """Return the predefined splits of a dataset by subject.

    Args:
        pairs: subject key and predefined split (or None) of each volume.

    Raises:
        DataError: if a subject is in two splits.
    """
    given: dict[str, Split] = {}
    overlap: set[str] = set()
    for subject, split in pairs:
        if split is not None and given.setdefault(subject, split) != split:
            overlap.add(subject)
    if overlap:
        raise DataError(
            f"the dataset assigns {counted(len(overlap), 'subject')} to two splits "
            f"({', '.join(sorted(overlap)[:5])}): expected each in one; correct its splits",
            reason="split_overlap",
        )
    return given


def folds(subjects: Iterable[str], folds: int = FOLDS) -> dict[str, int]:
    """Assign folds 0 … `folds` - 1 for cross-validation; their sizes differ by at most one.

    Subjects are ordered by a hash of their key, independent of the splits. Folds change with the set of
    subjects: compare runs on the same dataset only.

    Raises:
        DataError: if there are fewer than two folds or fewer subjects than folds.
    """
    ranked = sorted(set(subjects), key=lambda subject: hashlib.sha256(subject.encode()).digest())
    if not 2 <= folds <= len(ranked):
        raise DataError(
            f"{counted(folds, 'fold')} of {counted(len(ranked), 'subject')}: expected at least 2 folds and "
            "a subject for each; ingest more subjects",
            reason="too_few_subjects",
        )
    return {subject: rank % folds for rank, subject in enumerate(ranked)}


def _neediest(counts: Mapping[Split, int], members: int) -> Split:
    for split in _FILL_ORDER:
        if not counts[split]:
            return split
    return max(SHARES, key=lambda split: SHARES[split] * members - counts[split])


@dataclass(frozen=True)
class Partition:
    """Volumes of train, val and test; every patient is in one of them only.

    Attributes:
        train: used for gradients.
        val: used for model selection and monitoring.
        test: evaluated once, at the end.
    """

    train: tuple[VolumeRecord, ...]
    val: tuple[VolumeRecord, ...]
    test: tuple[VolumeRecord, ...]

    @property
    def digest(self) -> str:
        """Hash of the test split; scores with equal digests are comparable."""
        return digest_of(sorted(volume.id for volume in self.test))


def partition(
    dataset: Dataset,
    *,
    fold: int | None,
    usable: Callable[[VolumeRecord], bool] = lambda volume: True,
    volumes: Sequence[VolumeRecord] | None = None,
) -> Partition:
    """Partition a dataset.

    Args:
        fold: fold of the annotated patients to test on; None: the dataset's own splits.
        volumes: volumes to partition; None: those of the dataset.
    """
    included = tuple(volume for volume in volumes or dataset.volumes if usable(volume))
    if fold is None:
        split: dict[str, Split] = {volume.subject: volume.split or "train" for volume in dataset.volumes}
    else:
        split = _by_fold(dataset, fold)
    chosen = {
        name: tuple(volume for volume in included if split[volume.subject] == name)
        for name in ("train", "val", "test")
    }
    return Partition(**chosen)


def limit_patients(
    volumes: tuple[VolumeRecord, ...],
    *,
    count: int | None,
    share: float | None,
    classes_of: Callable[[VolumeRecord], frozenset[str]] = lambda volume: frozenset(),
) -> tuple[VolumeRecord, ...]:
    """Keep the volumes of some patients; smaller subsets are contained in larger ones, on every machine.

    Every class gets one patient before any gets a second; then classes keep their frequencies.

    Args:
        count: number of patients, or
        share: fraction of the patients, at least one patient.

    Raises:
        DataError: if there are fewer patients than requested.
    """
    subjects = _ranked(volumes, classes_of)
    if share is not None:
        count = max(1, math.floor(share * len(subjects) + 0.5))
    if count is None:
        return volumes
    if count > len(subjects):
        raise DataError(
            f"--num-labelled {count}: the training split has only "
            f"{counted(len(subjects), 'labelled patient')}",
            reason="too_few_labels",
        )
    kept = set(subjects[:count])
    return tuple(volume for volume in volumes if volume.subject in kept)


def patient_digest(subject: str) -> str:
    """Return an irreversible pseudonym of a patient for reports."""
    return hashlib.sha256(f"report/{subject}".encode()).hexdigest()[:8]


def _by_fold(dataset: Dataset, fold: int) -> dict[str, Split]:
    """Assign one fold of annotated patients to test, an eighth of the others to val, the rest to train."""
    place = folds({volume.subject for volume in dataset.annotated}, FOLDS)
    others = sorted((subject for subject, number in place.items() if number != fold), key=_order)
    val = set(others[: max(1, len(others) // 8)])
    return {
        volume.subject: "test"
        if place.get(volume.subject) == fold
        else ("val" if volume.subject in val else "train")
        for volume in dataset.volumes
    }


def _ranked(
    volumes: tuple[VolumeRecord, ...], classes_of: Callable[[VolumeRecord], frozenset[str]]
) -> list[str]:
    """Return the patients in the order in which subsets include them."""
    shown: dict[str, set[str]] = {}
    for volume in volumes:
        shown.setdefault(volume.subject, set()).update(classes_of(volume))
    often = Counter(name for names in shown.values() for name in names)
    groups: dict[str, list[str]] = {}
    for subject in sorted(shown, key=_order):
        # a patient with several classes counts for the rarest one
        rarest = min(shown[subject], key=lambda name: (often[name], name), default="")
        groups.setdefault(rarest, []).append(subject)
    places = {
        # one patient of each class comes first
        subject: ((place + 0.5) / len(group) if place or not name else 0.0, often[name], _order(subject))
        for name, group in groups.items()
        for place, subject in enumerate(group)
    }
    return sorted(places, key=lambda subject: places[subject])


def _order(subject: str) -> str:
    return hashlib.sha256(f"labelled/{subject}".encode()).hexdigest()
