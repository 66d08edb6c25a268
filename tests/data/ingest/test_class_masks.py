"""One mask file for each class: merged to one label, in which the smaller mask stays visible."""

import numpy as np
import pytest
from ingest_source import save_volume

from medmim.data.formats.nifti import read_image
from medmim.data.ingest.class_masks import merge_class_masks
from medmim.errors import DataError


def masks(tmp_path, *shapes):
    whole, core = (np.zeros(shape, np.uint8) for shape in shapes)
    whole[1:6, 1:6, 1:4] = 1
    core[2:4, 2:4, 2] = 1
    for name, array in (("core", core), ("whole", whole)):
        save_volume(tmp_path / f"{name}.nii.gz", array)
    return [(str(tmp_path / "core.nii.gz"), 1), (str(tmp_path / "whole.nii.gz"), 2)]


def test_the_smaller_mask_stays_visible(tmp_path):
    found = masks(tmp_path, (8, 7, 6), (8, 7, 6))
    result = merge_class_masks(found, str(tmp_path / "out.nii.gz"))
    assert result == {"measured": {"merged_labels": 2.0, "overlap_voxels": 4.0}}
    array = read_image(tmp_path / "out.nii.gz").array
    assert np.bincount(array.ravel()).tolist()[1:] == [4, 71]


def test_overlapping_masks_are_kept_as_combinations(tmp_path):
    result = merge_class_masks(
        masks(tmp_path, *2 * [(8, 7, 6)]), str(tmp_path / "out.nii.gz"), keep_overlap=True
    )
    assert result["combinations"] == [[2], [1, 2]]
    assert np.bincount(read_image(tmp_path / "out.nii.gz").array.ravel()).tolist()[1:] == [71, 4]


def test_masks_on_different_grids_are_rejected(tmp_path):
    with pytest.raises(DataError, match="different grids"):
        merge_class_masks(masks(tmp_path, (8, 7, 6), (8, 7, 5)), str(tmp_path / "out.nii.gz"))
