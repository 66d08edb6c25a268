"""A loaded model predicts arrays and files alike, and refuses what it was not trained on."""

import numpy as np
import pytest
import threshold
import tiny

from medmim import load_model
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError, UsageError

THRESHOLD = 1.5  # of normalised grey values; between noise and the ball of `tiny.blob`
TRAINED_ON = {"modalities": ["MR"], "images_2d": False, "volumes_3d": True}


@pytest.fixture
def model(tmp_path, home):
    weights = threshold.write_model(tmp_path / "model", THRESHOLD, training_data=TRAINED_ON)
    return load_model(str(weights), home=home, trust_code=("threshold:same",))


@pytest.fixture
def scan():
    return tiny.blob(np.random.default_rng(0), tiny.SHAPE)[0]


def test_a_file_and_its_array_give_the_same_labels_and_volumes(model, scan, tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(encode_image(Image(scan, np.diag([1.0, 1.0, 2.0, 1.0]))))
    from_file, from_array = model.predict(path), model.predict(scan, spacing_mm=(1.0, 1.0, 2.0))
    np.testing.assert_array_equal(from_file.labels, from_array.labels)
    assert from_array.labels.shape == scan.shape
    assert from_array.labels.any()
    assert from_file.rows[0]["ml"] == from_array.rows[0]["ml"]
    np.testing.assert_array_equal(from_array.affine, np.diag([1.0, 1.0, 2.0, 1.0]))
    assert "<img" in from_file._repr_html_()


def test_volumes_of_arrays_without_spacing_are_counted_in_voxels(model, scan):
    assert model.predict(scan).summary.endswith("voxels")


def test_a_picture_is_refused_by_a_model_of_volumes_unless_forced(model):
    picture = np.zeros((30, 40), np.float32)
    picture[5:9, 12:20] = 200
    with pytest.raises(DataError, match=r"single 2D image, but the model was trained on MR volumes"):
        model.predict(picture)
    forced = model.predict(picture, force=True)
    assert forced.labels.shape == picture.shape
    assert "warning: it is a single 2D image" in str(forced)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5), (0, 3)])
def test_arrays_of_other_shapes_are_rejected(model, shape):
    with pytest.raises(UsageError, match="2 or 3 axes"):
        model.predict(np.zeros(shape))


def test_a_spacing_of_zero_is_rejected(model, scan):
    with pytest.raises(UsageError, match="positive lengths"):
        model.predict(scan, spacing_mm=0.0)


def test_a_missing_file_is_rejected(model, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        model.predict(tmp_path / "none.nii.gz")
