"""The result of a prediction as a table."""

import csv
from pathlib import Path

import pytest
import tiny

from medmim.data.dataset.channels import group_channels
from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.stages.predict.outputs import VolumePrediction
from medmim.stages.predict.predictions import SOURCES, Predictions, output_names, paths_of, write_sources


def test_the_table_lists_predictions_and_failures():
    result = Predictions(
        out=Path("out"),
        model={"name": "scans-segment 3"},
        volumes={"a": VolumePrediction([], "ball 3 ml")},
        failures={"b": "channel_missing"},
        warnings=("1 of 2 scans is CT",),
    )
    assert result.table() == [["volume", "prediction"], ["a", "ball 3 ml"], ["b", "channel_missing"]]
    assert str(result).splitlines()[-1] == "1 of 2 scans is CT"
    assert result.picture() is None


def names_of(paths, *, slices=()):
    """Names of one volume per path; those in `slices` are DICOM."""
    volumes, rows, places = [], [], {}
    for number, path in enumerate(paths):
        volume = tiny.row(f"p{number}").model_copy(update={"id": f"v{number}", "slices": ("a", "b")})
        volumes.append(volume if number in slices else volume.model_copy(update={"slices": ()}))
        rows.append({"number": number, "fate": "accepted", "reason": "volume", "volume": f"v{number}"})
        places[number] = Path(path)
    dataset = Dataset(Path("data"), DatasetInfo(name="scans"), tuple(volumes))
    return dataset, rows, places, output_names(dataset.volumes, rows, places)


def test_files_keep_their_names_and_folders():
    *_, names = names_of(["my scan.nii.gz", "b/photo.1.png", "c.nrrd"])
    assert names == {"v0": "my scan", "v1": "b/photo.1", "v2": "c"}


def test_pictures_keep_their_names():
    dataset, rows, places, _ = names_of(["holiday.jpg"])
    rows[0]["reason"] = "picture"
    assert output_names(dataset.volumes, rows, places) == {"v0": "holiday"}


def test_equal_names_keep_their_endings():
    *_, names = names_of(["a.nii.gz", "a.png"])
    assert list(names.values()) == ["a.nii.gz", "a.png"]


def test_volumes_of_one_file_are_numbered():
    dataset, rows, places, _ = names_of(["a.nii.gz", "b.nii.gz"])
    rows[1]["number"] = 0
    assert output_names(dataset.volumes, rows, places) == {"v0": "a_1", "v1": "a_2"}


@pytest.mark.parametrize(
    ("paths", "name"), [(("a_0000_0000.nii", "a_0000_0001.nii"), "a_0000"), (("a_0001.nii",), "a")]
)
def test_all_volumes_of_a_case_have_its_name_without_the_number_of_a_channel(paths, name):
    dataset, rows, places, _ = names_of(paths)
    one_visit = [one.model_copy(update={"subject": "p", "study": "s"}) for one in dataset.volumes]
    visit = [
        one.model_copy(update={"tokens": (f"channel{places[number].stem[-1]}",)})
        for number, one in enumerate(one_visit)
    ]
    cases, _ = group_channels(visit, ["channel0", "channel1"], incomplete=True)
    assert output_names(cases, rows, places) == {one.id: name for one in visit}


def test_dicom_is_named_by_keys_and_listed_in_a_private_table(tmp_path):
    dataset, rows, places, names = names_of(["ANNA/1.dcm", "bad.nii"], slices=(0,))
    rows[1] |= {"fate": "quarantined", "reason": "not_nifti", "volume": None}
    assert names["v0"] == "p0/v0"
    write_sources(tmp_path, dataset.volumes, [*rows, rows[0]], places, names)
    table = list(csv.DictReader((tmp_path / SOURCES).open()))
    assert [row["source"] for row in table] == ["ANNA/", "bad.nii"]
    assert table[0] | {"prediction": "p0/v0", "patient": "p0", "volume": "v0"} == table[0]
    assert table[1]["reason"] == "not_nifti"
    assert (tmp_path / SOURCES).stat().st_mode & 0o777 == 0o600


def test_paths_are_relative_to_the_source(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").touch()
    (tmp_path / "a").touch()
    assert paths_of(tmp_path) == {0: Path("a"), 1: Path("b/x")}
