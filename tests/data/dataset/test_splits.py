"""Splits are balanced, stable and independent of the order of the input."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import row

from medmim.data.dataset.manifest import Dataset, DatasetInfo, read_dataset
from medmim.data.dataset.splits import (
    FOLDS,
    SHARES,
    assign_splits,
    folds,
    limit_patients,
    partition,
    patient_digest,
)
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


SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 2


@pytest.fixture
def dataset(tmp_path):
    """Thirty patients of two volumes each, the second without a label; every third patient has no label."""
    rows = [
        row(f"p{patient:02d}", number, label=number == 0 and patient % 3 > 0, split=SPLITS[patient % 10])
        for patient in range(30)
        for number in range(2)
    ]
    return Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows))


def patients(volumes):
    return {volume.subject for volume in volumes}


def labelled(volume):
    return volume.label is not None


def parts(divided):
    return [patients(getattr(divided, name)) for name in ("train", "val", "test")]


@pytest.mark.parametrize("fold", [None, 0, 1, 2, 3, 4])
@pytest.mark.parametrize("usable", [labelled, lambda volume: True], ids=["labelled", "all"])
def test_every_patient_is_in_one_part_only(dataset, fold, usable):
    train, val, test = parts(partition(dataset, fold=fold, usable=usable))
    assert not train & val
    assert not train & test
    assert not val & test
    assert train
    assert val
    assert test


def test_predefined_splits_are_kept(dataset):
    divided = partition(dataset, fold=None)
    for name in ("train", "val", "test"):
        assert {volume.split for volume in getattr(divided, name)} == {name}
    assert sum(map(len, (divided.train, divided.val, divided.test))) == 60


def test_unlabelled_volumes_are_excluded_on_request(dataset):
    divided = partition(dataset, fold=None, usable=labelled)
    assert all(volume.label for volume in (*divided.train, *divided.val, *divided.test))


def test_volumes_without_a_split_are_used_for_training(tmp_path):
    alone = Dataset(tmp_path, DatasetInfo(name="d"), (row("p"),))
    assert partition(alone, fold=None, usable=labelled).train == alone.volumes


def test_folds_test_every_labelled_patient_once(dataset):
    tested = [patients(partition(dataset, fold=fold, usable=labelled).test) for fold in range(FOLDS)]
    assert sum(map(len, tested)) == 20
    assert set().union(*tested) == patients(dataset.labelled)


def test_unlabelled_patients_are_in_train_for_every_fold(dataset):
    bare = patients(dataset.volumes) - patients(dataset.labelled)
    for fold in range(FOLDS):
        assert bare <= patients(partition(dataset, fold=fold).train)


def test_pretraining_and_finetuning_hold_out_the_same_patients(dataset):
    for fold in (None, 0, 3):
        pretraining = partition(dataset, fold=fold)
        finetuning = partition(dataset, fold=fold, usable=labelled)
        assert not patients(pretraining.train) & patients(finetuning.test)
        assert not patients(pretraining.train) & patients(finetuning.val)


def test_too_few_patients_for_folds_are_rejected(tmp_path):
    small = Dataset(tmp_path, DatasetInfo(name="d"), tuple(row(f"p{n}") for n in range(4)))
    with pytest.raises(DataError, match="5 folds of 4 subjects"):
        partition(small, fold=0, usable=labelled)


def test_the_digest_depends_on_the_test_split(dataset):
    digests = [partition(dataset, fold=fold, usable=labelled).digest for fold in (None, 0, 1, 0)]
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


def test_smaller_subsets_are_contained_in_larger_ones(dataset):
    chosen = [patients(limit_patients(dataset.labelled, count=n, share=None)) for n in (1, 5, 10, 20)]
    assert [len(found) for found in chosen] == [1, 5, 10, 20]
    assert all(small < large for small, large in pairwise(chosen))


def test_the_subset_does_not_depend_on_order_or_other_patients(dataset):
    ten = patients(limit_patients(dataset.labelled, count=10, share=None))
    assert patients(limit_patients(dataset.labelled[::-1], count=10, share=None)) == ten
    fewer = tuple(volume for volume in dataset.labelled if volume.subject in ten)
    assert patients(limit_patients(fewer, count=10, share=None)) == ten


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.5, 10), (0.125, 3), (1.0, 20)])
def test_a_fraction_is_rounded_to_at_least_one_patient(dataset, share, count):
    assert len(patients(limit_patients(dataset.labelled, count=None, share=share))) == count


def test_without_limit_all_volumes_are_kept(dataset):
    assert limit_patients(dataset.labelled, count=None, share=None) == dataset.labelled


def test_all_volumes_of_a_patient_are_kept():
    volumes = tuple(row(f"p{patient}", number) for patient in range(3) for number in range(4))
    assert len(limit_patients(volumes, count=2, share=None)) == 8


def test_more_patients_than_available_are_rejected(dataset):
    message = r"--num-labelled 21: the training split has only 20 labelled patients"
    with pytest.raises(DataError, match=message) as caught:
        limit_patients(dataset.labelled, count=21, share=None)
    assert caught.value.reason == "too_few_labels"


def test_the_patient_digest_is_short_and_stable():
    assert patient_digest("abc") == patient_digest("abc") != patient_digest("abd")
    assert len(patient_digest("abc")) == 8
    assert "abc" not in patient_digest("abc")


def test_partition_of_a_written_dataset(tiny_dataset):
    divided = partition(read_dataset(tiny_dataset), fold=None, usable=labelled)
    assert [len(part) for part in (divided.train, divided.val, divided.test)] == [7, 1, 2]


def of_classes(counts):
    """One volume a patient, `counts` patients of each class."""
    return tuple(
        row(f"{name}{number}").model_copy(update={"target": name})
        for name, count in counts.items()
        for number in range(count)
    )


def target(volume):
    return frozenset([volume.target])


def test_every_class_has_a_patient_before_any_has_a_second():
    volumes = of_classes({"rare": 2, "common": 40, "usual": 20})
    chosen = [limit_patients(volumes, count=n, share=None, classes_of=target) for n in (3, 6, 31, 62)]
    assert {volume.target for volume in chosen[0]} == {"rare", "common", "usual"}
    assert all(patients(small) < patients(large) for small, large in pairwise(chosen))
    half = [volume.target for volume in chosen[2]]
    assert half.count("common") == pytest.approx(20, abs=1)
    assert half.count("usual") == pytest.approx(10, abs=1)


def test_a_patient_with_several_classes_counts_for_the_rarest():
    volumes = of_classes({"rare": 1, "common": 9})
    both = row("rare0", 1).model_copy(update={"target": "common"})
    chosen = limit_patients((*volumes, both), count=2, share=None, classes_of=target)
    assert {volume.target for volume in chosen} == {"rare", "common"}
    assert len(chosen) == 3


def test_folds_include_all_annotated_patients(tmp_path):
    rows = [row(f"p{n}", label=False).model_copy(update={"target": "a"}) for n in range(10)]
    dataset = Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows))
    tested = [patients(partition(dataset, fold=fold).test) for fold in range(FOLDS)]
    assert [len(found) for found in tested] == [2] * FOLDS


def test_patients_with_a_class_precede_those_without():
    volumes = (*of_classes({"rare": 2, "common": 8}), *(row(f"none{number}") for number in range(10)))
    chosen = [
        limit_patients(volumes, count=n, share=None, classes_of=lambda one: frozenset({one.target} - {None}))
        for n in (1, 2, 10)
    ]
    assert [volume.target for volume in chosen[0]] == ["rare"]
    assert {volume.target for volume in chosen[1]} == {"rare", "common"}
    assert [volume.target for volume in chosen[2]].count(None) == pytest.approx(5, abs=1)
