"""Train, val and test splits by subject: balanced, and stable when subjects are added."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from medmim.data.dataset.manifest import Split
from medmim.errors import DataError, counted

SHARES: dict[Split, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
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


def folds(subjects: Iterable[str], folds: int = 5) -> dict[str, int]:
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
