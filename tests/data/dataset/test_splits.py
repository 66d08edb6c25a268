"""Splits: fair shares, nobody moves, labels spread, and the order of the input does not matter."""

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
def test_every_subject_has_one_split_whatever_the_order(subjects):
    splits = assign_splits(subjects, {})
    assert list(splits) == sorted(subjects)
    assert set(splits.values()) <= set(SHARES)
    assert assign_splits(dict(reversed(subjects.items())), {}) == splits


@given(SUBJECTS)
def test_shares_hold_for_labelled_and_for_others(subjects):
    splits = assign_splits(subjects, {})
    for labelled in (True, False):
        members = sum(flag is labelled for flag in subjects.values())
        counts = counts_of(splits, subjects, labelled)
        if members >= 3:
            assert min(counts[split] for split in SHARES) >= 1
        if members >= 10:
            assert all(abs(counts[split] - share * members) < 1.34 for split, share in SHARES.items())


@given(st.lists(SUBJECTS, min_size=1, max_size=6))
def test_nobody_moves_when_subjects_come_or_get_labels(batches):
    subjects, splits = {}, {}
    for batch in batches:
        subjects |= batch
        before, splits = splits, assign_splits(subjects, splits)
        assert before.items() <= splits.items()
    assert assign_splits(subjects, splits) == splits


@given(SUBJECTS, SUBJECTS)
def test_subjects_that_are_gone_have_no_say(subjects, gone):
    old = dict.fromkeys(set(gone) - set(subjects), "train")
    assert assign_splits(subjects, old) == assign_splits(subjects, {})


@given(st.sets(KEYS, min_size=10, max_size=60))
def test_one_by_one_comes_close_to_all_at_once(keys):
    subjects, splits = {}, {}
    for key in sorted(keys):
        subjects[key] = True
        splits = assign_splits(subjects, splits)
    counts = Counter(splits.values())
    assert all(abs(counts[split] - share * len(keys)) < 2 for split, share in SHARES.items())


def test_few_subjects_are_spread_where_they_help_most():
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
def test_impossible_folds_are_refused(count):
    with pytest.raises(DataError, match=f"{count} folds of 3 subjects") as caught:
        folds(["a", "b", "c"], count)
    assert caught.value.reason == "too_few_subjects"
