"""Who is in train, val and test: by subject, spread evenly, and never moved once given."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from medmim.data.dataset.manifest import Split
from medmim.errors import DataError

SHARES: dict[Split, float] = {"train": 0.7, "val": 0.1, "test": 0.2}
_FIRST_FILLED: tuple[Split, ...] = (
    "train",
    "test",
    "val",
)  # two subjects: something to train on and to test on


def assign_splits(subjects: Mapping[str, bool], old: Mapping[str, Split]) -> dict[str, Split]:
    """Give every subject a split; those that have one keep it.

    New subjects are taken in the order of their keys, which is as good as random because keys are HMACs. Each
    goes to an empty split first, then to the one that lacks most. Labelled subjects and others are counted
    apart, so that labels spread by the same shares.

    Args:
        subjects: key of each subject → whether any of its volumes has a label.
        old: splits given before; subjects that are gone are ignored.

    Returns:
        The split of each key in `subjects`, in sorted order of keys.
    """
    splits = {subject: old[subject] for subject in subjects if subject in old}
    for labelled in (True, False):
        members = sorted(subject for subject, has_label in subjects.items() if has_label is labelled)
        counts = Counter(splits[subject] for subject in members if subject in splits)
        for subject in members:
            if subject not in splits:
                splits[subject] = _neediest(counts, len(members))
                counts[splits[subject]] += 1
    return {subject: splits[subject] for subject in sorted(subjects)}


def given_splits(pairs: Iterable[tuple[str, Split | None]]) -> dict[str, Split]:
    """Return the splits that a data set brings along, by subject.

    Args:
        pairs: key of a volume's subject, and its split if the data set gives one.

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
            f"the data set puts {len(overlap)} subjects into two splits ({', '.join(sorted(overlap)[:5])}): "
            "expected each in one; correct its splits",
            reason="split_overlap",
        )
    return given


def folds(subjects: Iterable[str], folds: int = 5) -> dict[str, int]:
    """Number the subjects 0 … `folds` - 1 for cross-validation; sizes differ by at most one.

    The order is that of a hash of the key, so it has nothing to do with the splits or with time. Another set
    of subjects gives other folds: compare runs on the same dataset only.

    Raises:
        DataError: if there are fewer than two folds or fewer subjects than folds.
    """
    ranked = sorted(set(subjects), key=lambda subject: hashlib.sha256(subject.encode()).digest())
    if not 2 <= folds <= len(ranked):
        raise DataError(
            f"{folds} folds of {len(ranked)} subjects: expected 2 or more folds and a subject for each; use "
            "fewer folds or ingest more subjects",
            reason="too_few_subjects",
        )
    return {subject: rank % folds for rank, subject in enumerate(ranked)}


def _neediest(counts: Mapping[Split, int], members: int) -> Split:
    for split in _FIRST_FILLED:
        if not counts[split]:
            return split
    return max(SHARES, key=lambda split: SHARES[split] * members - counts[split])
