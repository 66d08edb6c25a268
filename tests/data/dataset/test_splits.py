"""Splits are balanced, stable and independent of the order of the input."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.data.dataset.splits import SHARES, assign_splits, folds
from medmim.errors import DataError

KEYS = st.text("0123456789abcdef", min_size=4, max_size=6)
SUBJECTS = st.dictionaries(KEYS, st.booleans(), max_size=60)


def counts_of(splits, subjects, labelled):
    return Counter(split for subject, split in splits.items() if subjects[subject] is labelled)


@given(SUBJECTS)
def test_splits_do_not_depend_on_the_order(subjects):
    splits = assign_splits(subjects, {})
    assert list(splits) == sorted(subjects)
    assert set(splits.values()) <= set(SHARES)
    assert assign_splits(dict(reversed(subjects.items())), {}) == splits


@given(SUBJECTS)
def test_shares_hold_for_labelled_and_unlabelled_subjects(subjects):
    splits = assign_splits(subjects, {})
    for labelled in (True, False):
        members = sum(flag is labelled for flag in subjects.values())
        counts = counts_of(splits, subjects, labelled)
        if members >= 3:
            assert min(counts[split] for split in SHARES) >= 1
        if members >= 10:
            assert all(abs(counts[split] - share * members) < 1.34 for split, share in SHARES.items())


@given(st.lists(SUBJECTS, min_size=1, max_size=6))
def test_splits_are_stable_when_subjects_or_labels_are_added(batches):
    subjects, splits = {}, {}
    for batch in batches:
        subjects |= batch
        before, splits = splits, assign_splits(subjects, splits)
        assert before.items() <= splits.items()
    assert assign_splits(subjects, splits) == splits


@given(SUBJECTS, SUBJECTS)
def test_removed_subjects_are_ignored(subjects, gone):
    old = dict.fromkeys(set(gone) - set(subjects), "train")
    assert assign_splits(subjects, old) == assign_splits(subjects, {})


@given(st.sets(KEYS, min_size=10, max_size=60))
def test_adding_subjects_one_by_one_keeps_the_shares(keys):
    subjects, splits = {}, {}
    for key in sorted(keys):
        subjects[key] = True
        splits = assign_splits(subjects, splits)
    counts = Counter(splits.values())
    assert all(abs(counts[split] - share * len(keys)) < 2 for split, share in SHARES.items())


def test_splits_of_one_two_and_three_subjects():
    assert assign_splits({"a": True}, {}) == {"a": "train"}
    assert assign_splits({"a": True, "b": True}, {}) == {"a": "train", "b": "test"}
    assert assign_splits({"a": True, "b": True, "c": True}, {}) == {"a": "train", "b": "test", "c": "val"}


def test_ten_subjects_give_the_shares_exactly():
    splits = assign_splits({f"{number:x}": True for number in range(10)}, {})
    assert Counter(splits.values()) == {"train": 7, "val": 1, "test": 2}


@given(st.sets(KEYS, min_size=5, max_size=60), st.integers(2, 5))
def test_folds_are_balanced_and_complete(keys, count):
    numbers = folds(keys, count)
    assert set(numbers) == keys
    sizes = Counter(numbers.values())
    assert set(sizes) == set(range(count))
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert folds(sorted(keys, reverse=True), count) == numbers


@pytest.mark.parametrize("count", [0, 1, 4])
def test_impossible_folds_are_rejected(count):
    with pytest.raises(DataError, match=f"{count} folds? of 3 subjects") as caught:
        folds(["a", "b", "c"], count)
    assert caught.value.reason == "too_few_subjects"


def test_subjects_that_share_images_get_one_split():
    subjects = dict.fromkeys("abcdefghij", True)
    groups = {one: {"d": "b", "j": "b"}.get(one, one) for one in subjects}
    splits = assign_splits(subjects, {}, groups)
    assert splits["b"] == splits["d"] == splits["j"]
    assert assign_splits(subjects, {"d": "val"}, groups)["j"] == "val"
    kept = assign_splits(subjects, {"b": "train", "d": "test"}, groups)
    assert (kept["b"], kept["d"]) == ("train", "test")
