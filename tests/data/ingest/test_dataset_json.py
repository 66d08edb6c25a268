"""The `dataset.json` of a dataset: modality, channels and class names, as in Decathlon and nnU-Net."""

import numpy as np
import pytest
from ingest_source import run_ingest, save_json, save_volume

from medmim.data.ingest.dataset_json import DatasetJson, plain_dataset_name, read_dataset_json
from medmim.errors import DataError

CONTENTS = {
    "Decathlon": (
        {"modality": {"0": "FLAIR", "1": "T1w"}, "labels": {"0": "background", "1": "edema"}},
        DatasetJson(modalities=("MR", "MR"), label_names={1: "edema"}, channels=2),
    ),
    "nnU-Net": (
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "^odd": 2}},
        DatasetJson(modalities=("CT",), label_names={1: "liver", 2: "class 2"}, channels=1),
    ),
    "nothing known": ({"labels": ["a"]}, DatasetJson(modalities=(None,), label_names={})),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_forms(tmp_path, name):
    content, expected = CONTENTS[name]
    save_json(tmp_path / "dataset.json", content)
    assert DatasetJson.model_validate(read_dataset_json(str(tmp_path / "dataset.json"))) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Hip study of Köln / 2", "hip-study-of-koln-2"),
        ("../../etc", "etc"),
        ("2024", ""),
        ("肝臓", ""),
        ("x" * 41, ""),
        (None, ""),
        (["a"], ""),
    ],
)
def test_names_of_datasets_are_plain(name, expected):
    assert plain_dataset_name(name) == expected


@pytest.mark.parametrize(
    ("folder", "names", "expected"),
    [
        ("in", {"in": "Hip study"}, "hip-study"),
        ("in/Dataset012_LungNodes", {}, "lungnodes"),
        ("in/Dataset012_LungNodes", {"in/Dataset012_LungNodes": "Lung"}, "lung"),
        ("in", {}, "msd"),
    ],
)
def test_a_dataset_is_named_by_its_json_or_its_folder(folder, names, expected, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        save_volume(tmp_path / folder / f"imagesTr/a_{number}.nii.gz", rng.integers(0, 900, (8, 7, 6)))
        save_volume(tmp_path / folder / f"labelsTr/a_{number}.nii.gz", rng.integers(0, 2, (8, 7, 6)))
    for place, name in names.items():
        save_json(tmp_path / place / "dataset.json", {"name": name, "labels": {"0": "background", "1": "x"}})
    assert run_ingest(tmp_path).info.name == expected


def test_a_dataset_of_another_layout_has_the_name_in_its_json(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        save_volume(tmp_path / f"in/scans/a_{number}.nii.gz", rng.integers(0, 900, (8, 7, 6)))
    save_json(tmp_path / "in/dataset.json", {"name": "Hip study"})
    assert run_ingest(tmp_path).info.name == "hip-study"


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["CT", "PET"], ["CT", "PT"]), (["CT", "other"], ["CT", "OT"]), (["T2", "other"], ["MR", "MR"])],
)
def test_channels_have_their_own_modality(tmp_path, names, expected):
    rng = np.random.default_rng(0)
    for channel in range(2):
        save_volume(tmp_path / f"in/imagesTr/a_000{channel}.nii.gz", rng.integers(0, 900, (8, 7, 6)))
    save_volume(tmp_path / "in/labelsTr/a.nii.gz", rng.integers(0, 2, (8, 7, 6)))
    channels = {str(number): name for number, name in enumerate(names)}
    save_json(tmp_path / "in/dataset.json", {"channel_names": channels, "labels": {"background": 0, "x": 1}})
    volumes = sorted(run_ingest(tmp_path).volumes, key=lambda one: one.tokens)
    assert [(one.tokens, one.modality) for one in volumes] == [
        ((f"channel{number}",), modality) for number, modality in enumerate(expected)
    ]


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="expected a JSON object") as caught:
        read_dataset_json(str(tmp_path / "dataset.json"))
    assert caught.value.reason == "unreadable_descriptor"


def test_the_class_that_nnunet_ignores_is_not_annotated(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(2):
        label = np.zeros((8, 7, 6), np.uint8)
        label[1:3], label[5:7] = 1, 2
        save_volume(tmp_path / f"in/imagesTr/a_{number}_0000.nii.gz", rng.integers(0, 900, (8, 7, 6)))
        save_volume(tmp_path / f"in/labelsTr/a_{number}.nii.gz", label)
    labels = {"background": 0, "liver": 1, "ignore": 2}
    save_json(tmp_path / "in" / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels})
    info = run_ingest(tmp_path).info
    assert (info.label_names, info.ignore_label) == ({1: "liver"}, 2)
