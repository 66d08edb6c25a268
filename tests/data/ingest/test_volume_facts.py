"""Facts about volumes: grid, and the classes of volumes that can be labels."""

import numpy as np
import pytest
from ingest_source import label_array, save_volume, scan_array

from medmim.data.ingest.volume_facts import VolumeFacts, examine_volume


def facts(path, array, affine=None):
    save_volume(path, array, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine)
    return VolumeFacts.model_validate(examine_volume(str(path)))


@pytest.mark.parametrize(
    ("array", "classes"),
    [
        (label_array(classes=2), (1, 2)),
        (label_array().astype(np.float32), (1,)),
        (scan_array(), None),
        (label_array() + np.float32(0.5), None),
        (label_array().astype(np.int16) - 1, None),
        (label_array() + 1, (1, 2)),
    ],
)
def test_classes_of_label_like_volumes(tmp_path, array, classes):
    assert facts(tmp_path / "a.nii.gz", array).classes == classes


def test_grids_are_compared_whatever_their_axis_order(tmp_path):
    one = facts(tmp_path / "a.nii.gz", scan_array())
    turned = np.diag([1.0, 1.0, 2.0, 1.0])[:, [2, 0, 1, 3]]
    assert one.same_grid(facts(tmp_path / "b.nii.gz", scan_array(shape=(6, 8, 7)), turned))
    assert not one.same_grid(facts(tmp_path / "c.nii.gz", scan_array(), np.diag([1.0, 1.0, 3.0, 1.0])))
