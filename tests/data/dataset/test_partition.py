"""Patients are in one part only; subsets of patients are nested."""

from itertools import pairwise

import pytest
from tiny import row

from medmim.data.dataset.manifest import Dataset, DatasetInfo, read_dataset
from medmim.data.dataset.partition import FOLDS, limit_patients, partition, patient_digest
from medmim.errors import DataError

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
