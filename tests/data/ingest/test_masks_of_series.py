"""Label volumes next to DICOM series are attached by folder or name; several of one series mark classes."""

import numpy as np
import pytest
from dicom_maker import write_series
from ingest_source import count_fates, run_ingest, save_volume

from medmim.data.formats.nifti import read_image
from medmim.data.ingest.infer_roles import AmbiguousLayoutError
from medmim.data.ingest.layout_rules import InferenceRules
from medmim.stages.ingest import preview


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Return the affine of a generated series."""
    root = tmp_path_factory.mktemp("grid")
    write_series(root / "in")
    dataset = run_ingest(root)
    return read_image(dataset.root / dataset.volumes[0].image).affine


def save_patients(folder, count, below=""):
    for number in range(1, count + 1):
        uids = {"series": f"1.2.3.{number}0", "study": f"1.2.{number}", "patient": f"PAT-{number}"}
        write_series(folder / f"p{number}" / below, **uids)


def mask(number):
    array = np.zeros((10, 8, 6), np.uint8)
    array[number : number + 3, 2:5, 2] = 1
    return array


@pytest.mark.parametrize("place", ["p{}/mask.nii.gz", "labels/p{}.nii.gz", "p{}/dicom/seg.nii.gz"])
def test_a_mask_belongs_to_the_series_of_its_folder_or_name(tmp_path, grid, place):
    save_patients(tmp_path / "in", 2, "dicom")
    for number in (1, 2):
        save_volume(tmp_path / "in" / place.format(number), mask(number), grid)
    found = preview(tmp_path / "in", tmp_path / "new", workers=1)
    assert (found.others, found.images) == ({"label": 2}, 0)
    dataset = run_ingest(tmp_path)
    assert count_fates(tmp_path) == {("accepted", "volume"): 12, ("accepted", "label"): 2}
    places = {read_image(dataset.root / one.label).array.nonzero()[0].min() for one in dataset.volumes}
    assert places == {1, 2}


def test_a_mask_that_is_not_on_the_grid_of_the_series_is_refused(tmp_path, grid):
    save_patients(tmp_path / "in", 1)
    shift = np.eye(4)
    shift[2, 3] = 9.0
    save_volume(tmp_path / "in/p1/mask.nii.gz", mask(1), shift @ grid)
    assert not run_ingest(tmp_path).volumes[0].label
    assert count_fates(tmp_path)["quarantined", "label_offset"] == 1


@pytest.mark.parametrize("place", ["p{}/{}.nii.gz", "p{}/{}_mask.nii.gz", "segmentations/p{}/{}.nii.gz"])
def test_several_masks_of_one_series_become_classes_by_their_names(tmp_path, grid, place):
    save_patients(tmp_path / "in", 2)
    for number in (1, 2):
        for name, first in {"liver": 0, "spleen": 4}.items():
            save_volume(tmp_path / "in" / place.format(number, name), mask(first), grid)
    dataset = run_ingest(tmp_path)
    assert count_fates(tmp_path) == {("accepted", "volume"): 12, ("accepted", "label"): 4}
    assert dataset.info.label_names == {1: "liver", 2: "spleen"}
    for volume in dataset.volumes:
        label = read_image(dataset.root / volume.label).array
        assert [(label == number).nonzero()[0].min() for number in (1, 2)] == [0, 4]


@pytest.mark.parametrize(
    ("overlap", "counts", "names"),
    [
        ("smallest", [3, 9], {1: "core", 2: "whole"}),
        ("regions", [9, 3], {2: "whole", 3: "core + whole"}),
    ],
)
def test_overlapping_masks_of_one_series(tmp_path, grid, overlap, counts, names):
    save_patients(tmp_path / "in", 1)
    core, whole = np.zeros((10, 8, 6), np.uint8), np.zeros((10, 8, 6), np.uint8)
    core[2:5, 2, 2], whole[1:5, 2:5, 2] = 1, 1
    for name, array in {"core": core, "whole": whole}.items():
        save_volume(tmp_path / f"in/p1/{name}_mask.nii.gz", array, grid)
    dataset = run_ingest(tmp_path, overlap=overlap)
    label = read_image(dataset.root / dataset.volumes[0].label).array
    assert dataset.info.label_names == names
    assert [int((label == number).sum()) for number in names] == counts


def test_masks_of_one_series_by_several_readers_stop_with_both_readings(tmp_path, grid):
    save_patients(tmp_path / "in", 1)
    for number in (1, 2):
        save_volume(tmp_path / f"in/p1/reader{number}_mask.nii.gz", mask(number), grid)
    with pytest.raises(AmbiguousLayoutError, match="by several readers"):
        run_ingest(tmp_path)
    rules = InferenceRules(roles=(("*reader1*", "skip"),))
    assert run_ingest(tmp_path, rules=rules).volumes[0].label


def test_masks_of_one_series_on_different_grids_are_refused(tmp_path, grid):
    save_patients(tmp_path / "in", 1)
    save_volume(tmp_path / "in/p1/liver_mask.nii.gz", mask(1), grid)
    save_volume(tmp_path / "in/p1/spleen_mask.nii.gz", mask(1)[:-1], grid)
    assert not run_ingest(tmp_path).volumes[0].label
    assert count_fates(tmp_path)["quarantined", "label_shape"] == 2


def test_patients_of_dicom_and_of_named_files_are_a_warning(tmp_path):
    save_patients(tmp_path / "in", 1)
    save_volume(tmp_path / "in/p1/image.nii.gz", np.random.default_rng(0).integers(0, 900, (10, 8, 6)))
    (warning,) = run_ingest(tmp_path).info.warnings
    assert warning == {"kind": "patients_by_two_rules", "images": 1, "dicom": 1}
