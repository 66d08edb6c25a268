"""Several datasets as one: patients are held out across all of them."""

import hashlib

import pytest
import tiny

from medmim.data.dataset.manifest import Dataset, DatasetInfo, read_dataset, write_dataset
from medmim.data.dataset.splits import partition
from medmim.data.dataset.union import DatasetUnion, read_datasets
from medmim.errors import UsageError


def write(root, rows, name="a"):
    write_dataset(root, DatasetInfo(name=name), rows, [])
    return root


def row(subject, number, split, pixels=None):
    return tiny.row(subject, number, split=split).model_copy(update={"pixels_sha256": pixels})


def joined(tmp_path, first, second, fold=None):
    said = []
    roots = [write(tmp_path / "a", first), write(tmp_path / "b", second, name="b")]
    return read_datasets(roots, fold=fold, log=said.append), said


def split_of(union):
    return {(one.subject, one.study): one.split for one in union.dataset.volumes}


def test_one_dataset_is_returned_as_it_is(tiny_dataset):
    union = read_datasets([tiny_dataset], fold=None, log=print)
    assert union.dataset.volumes == read_dataset(tiny_dataset).volumes
    assert union.hashes == (union.dataset.info.content_hash,)


def test_a_patient_held_out_in_one_dataset_is_held_out_in_all(tmp_path):
    union, said = joined(tmp_path, [row("p0", 0, "train"), row("p1", 0, "test")], [row("p1", 1, "train")])
    assert split_of(union) == {("p0", "study0"): "train", ("p1", "study0"): "test", ("p1", "study1"): "test"}
    assert said[1] == "held out: 1 volume, because another dataset holds out their patient or a copy"


def test_equal_voxels_under_another_key_hold_out_all_volumes_of_that_key(tmp_path):
    first = [row("p0", 0, "test", pixels="same")]
    second = [row("q0", 1, "train", pixels="same"), row("q0", 2, "train"), row("q1", 3, "train")]
    union, _ = joined(tmp_path, first, second)
    splits = split_of(union)
    assert {splits["q0", "study1"], splits["q0", "study2"]} == {"test"}
    assert splits["q1", "study3"] == "train"


def test_files_are_found_in_their_own_folder(tmp_path):
    union, _ = joined(tmp_path, [row("p0", 0, "train")], [row("q0", 1, "train")])
    images = sorted(one.image for one in union.dataset.volumes)
    assert images[0].startswith(str(tmp_path / "a"))
    assert images[1].startswith(str(tmp_path / "b"))
    assert union.dataset.info.name == "a+b"


def test_folds_are_those_of_each_dataset(tmp_path):
    first = [row(f"p{number}", number, "train") for number in range(10)]
    second = [row(f"q{number}", number + 20, "train") for number in range(5)]
    union, _ = joined(tmp_path, first, second, fold=1)
    held_out = {one.subject for one in union.dataset.volumes if one.split == "test"}
    assert sum(subject.startswith("p") for subject in held_out) == 2
    assert sum(subject.startswith("q") for subject in held_out) == 1


def test_weights_give_datasets_their_proportions(tmp_path):
    rows = [tiny.row(f"p{number}", number) for number in range(3)]
    dataset = Dataset(tmp_path, DatasetInfo(name="a+b"), tuple(rows))
    union = DatasetUnion(dataset, partition(dataset, fold=None), ("a", "b"), {rows[2].id: 1})
    assert union.weights(rows, ()) is None
    assert union.weights(rows, (1.0, 3.0)) == [0.5, 0.5, 3.0]
    with pytest.raises(UsageError, match=r"one number per dataset \(2\), got 1"):
        union.weights(rows, (1.0,))


def coarse(volume, number):
    bits = int(hashlib.sha256(b"one scan").hexdigest()[:54], 16) ^ number
    return volume.model_copy(update={"perceptual_hash": f"{bits:054x}"})


def test_an_altered_copy_in_another_dataset_is_held_out(tmp_path):
    first = [coarse(row("p0", 0, "test"), 0), coarse(row("p1", 0, "train"), (1 << 200) - 1)]
    second = [coarse(row("q0", 1, "train"), 0b101), row("q1", 2, "train")]
    union, said = joined(tmp_path, first, second)
    splits = split_of(union)
    assert (splits["q0", "study1"], splits["q1", "study2"], splits["p1", "study0"]) == (
        "test",
        "train",
        "train",
    )
    assert said[1] == "held out: 1 volume, because another dataset holds out their patient or a copy"
    assert said[2] == "warning: 1 pair of images of two datasets may be altered copies"
    assert said[3].startswith(
        "warning: altered copies in other datasets were not searched for among 1 volume "
    )


def test_identifiers_of_two_datasets_that_look_alike_are_named(tmp_path):
    first, second = (
        row(subject, number, split).model_copy(update={"loose_subject": "pat7"})
        for number, (subject, split) in enumerate([("a", "test"), ("b", "train")])
    )
    _, said = joined(tmp_path, [first], [second])
    assert said[-1].startswith("warning: 2 patients whose identifiers differ only in case")


@pytest.mark.parametrize("number", [1, 2])
def test_cases_of_several_channels_are_in_the_split_of_their_patient(tiny_dataset, tmp_path, number):
    dataset = read_dataset(tiny_dataset)
    rows = [row.model_copy(update={"tokens": ("t1",)}) for row in dataset.volumes]
    flair = {"tokens": ("flair",), "image": "x.nii.gz"}
    rows += [row.model_copy(update={"id": f"{row.id}x", **flair}) for row in rows]
    roots = [tmp_path / str(place) for place in range(number)]
    for root in roots:
        write_dataset(root, DatasetInfo(name="d"), rows, [])
    union = read_datasets(roots, fold=None, channels=["flair", "t1"], log=print)
    assert len(union.dataset.volumes) == len(dataset.volumes)
    for name in ("train", "val", "test"):
        assert all(case.split == name for case in getattr(union.partition, name))
        assert {case.id for case in getattr(union.partition, name)} == {
            f"{row.id}x" for row in dataset.volumes if row.split == name
        }
