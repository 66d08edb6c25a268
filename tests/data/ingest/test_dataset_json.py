"""The `dataset.json` of a dataset: modality, channels and class names, as in Decathlon and nnU-Net."""

import numpy as np
import pytest
from ingest_source import run_ingest, save_json, save_volume

from medmim.data.ingest.dataset_json import DatasetJson, read_dataset_json
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
