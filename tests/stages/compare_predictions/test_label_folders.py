import label_folders as maker
import numpy as np
import PIL.Image
import pytest

from medmim.errors import DataError, UsageError
from medmim.stages.compare_predictions.cases import PredictionSet
from medmim.stages.compare_predictions.label_folders import (
    label_files,
    names_of,
    read_labels,
    read_predictions,
)


def quiet(*_):
    """Take progress."""


def read(root, tool, **names):
    truth, _ = read_labels(root / "labels", quiet)
    return read_predictions(PredictionSet(tool, 0, root / tool), truth, named=names_of(root / "labels"))


def test_classes_are_named_by_the_dataset_json_above_the_labels(tmp_path):
    maker.write_names(tmp_path, {**maker.NAMES, "never": 7, "ignore": 9})
    maker.save(tmp_path / "labels", "a.nii.gz", maker.label_map())
    truth, notes = read_labels(tmp_path / "labels", quiet)
    assert truth.classes == {1: "front", 2: "back"}
    assert truth.ignored == (9,)
    assert notes == ["no label contains never: left out"]


def test_a_tool_with_other_values_is_matched_by_name(tmp_path):
    maker.write_names(tmp_path / "labels", maker.NAMES)
    maker.write_names(tmp_path / "tool", {"background": 0, "back": 1, "front": 2})
    for folder in ("labels", "tool"):
        maker.save(tmp_path / folder, "a.nii.gz", maker.label_map())
    codes, files, notes = read(tmp_path, "tool")
    assert codes == {1: 2, 2: 1}
    assert files.keys() == {"a"}
    assert notes == ["tool: classes are matched by name, as their values differ"]


def test_a_class_that_a_tool_does_not_name_is_an_error(tmp_path):
    maker.write_names(tmp_path / "labels", maker.NAMES)
    maker.write_names(tmp_path / "tool", {"front": 1, "rear": 2})
    for folder in ("labels", "tool"):
        maker.save(tmp_path / folder, "a.nii.gz", maker.label_map())
    with pytest.raises(DataError, match=r"tool: its dataset\.json has no class back"):
        read(tmp_path, "tool")


def test_values_that_no_label_has_are_an_error_or_a_note(tmp_path):
    maker.save(tmp_path / "labels", "a.nii.gz", maker.label_map())
    maker.save(tmp_path / "other", "a.nii.gz", maker.label_map(values=(0, 10, 20)))
    maker.save(tmp_path / "more", "a.nii.gz", maker.label_map(values=(0, 1, 20)))
    with pytest.raises(DataError, match=r"its values 10, 20 do not occur in the labels \(1, 2\)"):
        read(tmp_path, "other")
    assert read(tmp_path, "more")[2] == [
        "more: values 20 are no class of the labels and count as background",
        "more: no label map contains label 2; check that its values mean the same classes",
    ]


def test_a_tool_that_found_nothing_anywhere_is_reported(tmp_path):
    maker.save(tmp_path / "labels", "a.nii.gz", maker.label_map())
    maker.save(tmp_path / "tool", "a.nii.gz", np.zeros_like(maker.label_map()))
    assert read(tmp_path, "tool")[2] == [
        "tool: every label map is empty; check that these are its predictions"
    ]


def test_masks_of_0_and_1_fit_masks_of_0_and_255(tmp_path):
    for folder, value in (("labels", 255), ("tool", 1)):
        maker.save(tmp_path / folder, "a.nii.gz", maker.label_map(values=(0, value, value)))
    codes, _, notes = read(tmp_path, "tool")
    assert codes == {1: 255}
    assert notes == ["tool: value 1 is read as 255, the only class"]


@pytest.mark.parametrize(("white", "other"), [(255, 1), (1, 255)])
def test_black_and_white_pictures_are_read_as_class_1(tmp_path, white, other):
    for folder, value in (("labels", white), ("tool", other)):
        (tmp_path / folder).mkdir()
        pixels = (maker.label_map()[:, :, 4] > 0) * value
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / "a.png")
    codes, _, notes = read(tmp_path, "tool")
    assert (codes, notes) == ({1: 1}, [])
    assert "distances are in pixels" in read_labels(tmp_path / "labels", quiet)[1][-1]


def test_label_maps_without_a_label_are_counted(tmp_path):
    maker.save(tmp_path / "labels", "a.nii.gz", maker.label_map())
    maker.save(tmp_path / "tool", "a_0000.nii.gz", maker.label_map())
    maker.save(tmp_path / "tool", "b.nii.gz", maker.label_map())
    assert read(tmp_path, "tool")[2] == ["tool: label maps without a label, not used: 1"]
    maker.save(tmp_path / "far", "z.nii.gz", maker.label_map())
    with pytest.raises(DataError, match="none of 1 label map has the name of a label"):
        read(tmp_path, "far")


def test_a_folder_without_label_maps_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"expected label maps .* got 1 other file"):
        label_files(tmp_path)


def test_empty_labels_are_an_error(tmp_path):
    maker.save(tmp_path, "a.nii.gz", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(DataError, match="got 1 empty ones"):
        read_labels(tmp_path, quiet)
