"""NumPy files with one image each are read, with the label in the same archive."""

import numpy as np
import pytest

from medmim.data.formats.case import read_case
from medmim.data.formats.nifti import read_image
from medmim.data.formats.plain_arrays import has_own_label, read_plain_array
from medmim.errors import DataError

VOLUME = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("array", [VOLUME, np.asfortranarray(VOLUME), VOLUME[None], VOLUME.astype(float)])
def test_slices_rows_and_columns_become_columns_rows_and_slices(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    read = read_plain_array(tmp_path / "a.npy").image
    np.testing.assert_allclose(read.array, VOLUME.T)
    assert read.spacing_mm == (1.0, 1.0, 1.0)


def test_an_archive_gives_its_image_and_its_label(tmp_path):
    mask = np.zeros((6, 7), np.float32)
    mask[1:3, 2:6] = 2
    np.savez(tmp_path / "slice.npz", image=VOLUME[0], label=mask)
    assert has_own_label(tmp_path / "slice.npz")
    targets = [str(tmp_path / name) for name in ("image.nii.gz", "label.nii.gz")]
    facts = read_case(str(tmp_path / "slice.npz"), None, *targets)
    assert facts["label"]["values"] == [2]
    np.testing.assert_array_equal(read_image(tmp_path / "label.nii.gz").array[..., 0], mask.T)
    np.testing.assert_array_equal(read_image(tmp_path / "image.nii.gz").array[..., 0], VOLUME[0].T)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"train_images": VOLUME, "train_labels": VOLUME}, "arrays_unclear"),
        ({"image": np.array([{}], dtype=object)}, "unusable_array"),
        ({"image": np.zeros((3, 4, 5, 6))}, "unusable_array"),
    ],
)
def test_other_archives_are_refused(tmp_path, arrays, reason):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="array") as caught:
        read_plain_array(tmp_path / "a.npz")
    assert caught.value.reason == reason


def test_a_truncated_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    with pytest.raises(DataError, match="got fewer"):
        read_plain_array(tmp_path / "a.npy")
