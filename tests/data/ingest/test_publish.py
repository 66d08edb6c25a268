"""Publication: several sources in one dataset, splits that stay, and flags for faces."""

import pytest
import tiny
from ingest_source import label_array, run_ingest, save_json, save_volume, scan_array

from medmim.data.dataset.integrity import find_problems
from medmim.data.ingest.publish import face_flag
from medmim.errors import DataError, UsageError


def test_only_what_may_show_a_face_is_flagged():
    def flag(shape=(256, 256, 150), spacing=(1.0, 1.0, 1.0), **facts):
        return face_flag(tiny.row(shape=shape, spacing=spacing).model_copy(update=facts))

    possible = {"recognizable_face": "possible"}
    assert flag() == possible
    assert flag(tokens=("t1", "head")) == possible
    assert flag(shape=(512, 512, 24), spacing=(0.45, 0.45, 6.5)) == possible
    assert flag(tokens=("ct", "chest")) == {}
    assert flag(tokens=("head", "chest")) == possible
    assert flag(shape=(35, 50, 35)) == {}
    assert flag(shape=(256, 256, 1), spatial_dims=2) == {}
    assert flag(modality="US") == {}


def write_site(folder, seed, *, patients=4, classes=None):
    """Write patients with a label each; the sites have the same file names."""
    for number in range(patients):
        save_volume(folder / "imagesTr" / f"p_{number}.nii.gz", scan_array(seed + number))
        save_volume(folder / "labelsTr" / f"p_{number}.nii.gz", label_array(seed + number))
    save_json(folder / "dataset.json", {"modality": {"0": "CT"}, "labels": classes or {"1": "liver"}})


@pytest.fixture
def sites(tmp_path, sandbox):
    """A dataset of one site, and a function that ingests another."""
    write_site(tmp_path / "in", 0)
    first = run_ingest(tmp_path, sandbox=sandbox)

    def ingest_site(name="site b", **options):
        (tmp_path / "in").rename(tmp_path / "previous")
        (tmp_path / name).rename(tmp_path / "in")
        try:
            return run_ingest(tmp_path, sandbox=sandbox, add=True, **options)
        finally:
            (tmp_path / "in").rename(tmp_path / name)
            (tmp_path / "previous").rename(tmp_path / "in")

    return first, ingest_site


def test_a_second_source_is_added_and_splits_of_the_first_stay(tmp_path, sites, sandbox):
    first, ingest_site = sites
    write_site(tmp_path / "site b", 50, patients=3)
    both = ingest_site()
    assert both.info.counts["volumes"] == both.info.counts["labels"] == 7
    assert both.info.counts["files_seen"] == 9 + 7
    assert len({one.subject for one in both.volumes}) == 7  # equal names at two sites are two patients
    before = {one.id: one.split for one in first.volumes}
    assert {one.id: one.split for one in both.volumes if one.source == "source-1"} == before
    assert sum(one.source == "source-2" for one in both.volumes) == 3
    assert not find_problems(both)
    with pytest.raises(UsageError, match="several sources"):
        run_ingest(tmp_path, sandbox=sandbox)
    save_volume(tmp_path / "site b" / "imagesTr" / "p_9.nii.gz", scan_array(99))
    grown = ingest_site(source_name="source-2")
    assert (grown.info.counts["volumes"], grown.info.counts["files_seen"]) == (8, 17)


def test_the_first_source_has_the_name_that_the_user_gave(tmp_path, sandbox):
    write_site(tmp_path / "in", 0)
    for _ in range(2):  # the same command again updates the source
        first = run_ingest(tmp_path, sandbox=sandbox, source_name="a")
        assert {one.source for one in first.volumes} == {"a"}
    with pytest.raises(UsageError, match=r"--source b: .* contains another source; use --add"):
        run_ingest(tmp_path, sandbox=sandbox, source_name="b")
    both = run_ingest(tmp_path, sandbox=sandbox, source_name="a", add=True)
    assert {one.source for one in both.volumes} == {"a"}


def test_sources_need_one_meaning_of_each_class(tmp_path, sites):
    _, ingest_site = sites
    write_site(tmp_path / "site b", 50, classes={"1": "spleen"})
    with pytest.raises(DataError, match="label 1 is 'liver' in the dataset and 'spleen' in this source"):
        ingest_site()
    assert ingest_site(label_names={1: "liver"}).info.counts["volumes"] == 8


def test_a_source_needs_a_dataset_to_be_added_to(tmp_path, sandbox):
    write_site(tmp_path / "in", 0)
    with pytest.raises(UsageError, match="expected an existing dataset"):
        run_ingest(tmp_path, sandbox=sandbox, add=True)


def test_splits_of_the_user_replace_those_of_the_dataset(tmp_path, sites, sandbox):
    save_json(tmp_path / "s.json", {"train": ["p_0", "p_1"], "val": ["p_2"], "test": ["p_3"]})
    dataset = run_ingest(tmp_path, sandbox=sandbox, splits=tmp_path / "s.json")
    counts = dataset.info.counts
    assert (counts["train"], counts["val"], counts["test"]) == (2, 1, 1)


def test_a_dataset_with_two_splits_gets_a_third(tmp_path, sandbox):
    for split, patients in (("train", 5), ("val", 2)):
        for number in range(patients):
            save_volume(tmp_path / "in" / split / "images" / f"{split}{number}.nii.gz", scan_array(number))
    data = run_ingest(tmp_path, sandbox=sandbox)
    assert {split: sum(one.split == split for one in data.volumes) for split in ("train", "val", "test")} == {
        "train": 4, "val": 2, "test": 1,
    }  # fmt: skip
    made = {"kind": "split_made", "split": "test", "patients": 1, "train": 5}
    assert made in data.info.warnings
    again = run_ingest(tmp_path, sandbox=sandbox)
    assert [one.split for one in again.volumes] == [one.split for one in data.volumes]
