"""Datasets as MONAI's datalist, and as nnU-Net raw data."""

import json

import numpy as np
import pytest
import tiny

from medmim.data.dataset.manifest import DatasetInfo, LedgerRow, read_dataset, write_dataset
from medmim.data.formats.nifti import read_image
from medmim.errors import DataError, UsageError
from medmim.stages.export.run import export


def raw(data, home, out, **words):
    return export("nnunet-raw", data=data, home=home, out=out, **words).path


def test_cases_and_patients_are_split_as_in_the_dataset(tiny_dataset, tmp_path, home):
    folder, dataset = raw(tiny_dataset, home, tmp_path / "Dataset007_Tiny"), read_dataset(tiny_dataset)
    about = json.loads((folder / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "core": 1, "rim": 2}
    assert (about["channel_names"], about["numTraining"]) == ({"0": "MR"}, 8)
    [split] = json.loads((folder / "splits_final.json").read_text())
    for part, name in (("train", "train"), ("val", "val")):
        assert split[part] == sorted(volume.id for volume in dataset.in_split(name))
    for place, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        for part, splits in (("Tr", ("train", "val")), ("Ts", ("test",))):
            found = sorted(path.name for path in (folder / f"{place}{part}").iterdir())
            assert found == sorted(f"{one.id}{ending}" for one in dataset.in_split(*splits))
    volume = dataset.in_split("val")[0]
    copied = folder / "imagesTr" / f"{volume.id}_0000.nii.gz"
    assert copied.read_bytes() == (tiny_dataset / volume.image).read_bytes()


def coded_dataset(root, *, codes, ignore=None, names=None):
    """Four patients whose labels are written with other codes."""
    rng, rows = np.random.default_rng(0), []
    for number, split in enumerate(("train", "train", "val", "test")):
        image, label = tiny.blob(rng, tiny.SHAPE)
        coded = np.array([0, *codes])[label].astype(np.uint16)
        coded[0, 0, 0] = ignore or 0
        affine = tiny.affine_of("RAS", (1.0, 1.0, 1.0), tiny.SHAPE)
        rows.append(tiny.write_volume(root, f"p{number}", image, affine, label=coded, split=split))
    info = DatasetInfo(
        name="coded", label_names=names or dict(zip(codes, ("core", "rim"), strict=True)), ignore_label=ignore
    )
    ledger = [LedgerRow(number=0, file="f", fate="accepted", reason="ok")]
    write_dataset(root, info, rows, ledger)
    return root


def test_codes_become_consecutive_and_the_ignored_label_the_last(tmp_path, home):
    data = coded_dataset(tmp_path / "data", codes=(17, 1035), ignore=4000)
    folder = raw(data, home, tmp_path / "Dataset001_Coded")
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "core": 1,
        "rim": 2,
        "ignore": 3,
    }
    volume = read_dataset(data).volumes[0]
    source = read_image(data / volume.label).array
    written = read_image(
        folder / ("labelsTs" if volume.split == "test" else "labelsTr") / f"{volume.id}.nii.gz"
    )
    for code, number in ((0, 0), (17, 1), (1035, 2), (4000, 3)):
        np.testing.assert_array_equal(written.array == number, source == code)


def test_what_nnunet_cannot_read_is_refused(tiny_dataset, tmp_path, home):
    with pytest.raises(UsageError, match=r"expected a folder name such as Dataset001_Lung"):
        raw(tiny_dataset, home, tmp_path / "mine")
    data = coded_dataset(tmp_path / "data", codes=(17, 1035), names={17: "core"})
    with pytest.raises(DataError, match=r"contains the codes \[1035\]"):
        raw(data, home, tmp_path / "Dataset001_Coded")
    plain = tiny.make_dataset(tmp_path / "plain", patients=4, labels=False)
    with pytest.raises(DataError, match=r"expected training volumes with named labels"):
        raw(plain, home, tmp_path / "Dataset001_Plain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "plain"]
