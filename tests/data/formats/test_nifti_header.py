"""Invalid NIfTI headers are rejected with the reason that applies."""

import gzip
import struct

import numpy as np
import pytest
from nifti_files import assert_rejected, patched, saved, volume

from medmim.data.formats.nifti import load_nifti, read_image


@pytest.mark.parametrize("lengths", [(0, 5, 6, 7), (8, 5, 6, 7), (3, 5, 0, 7), (3, 5, -6, 7), (-1, 5, 6, 7)])
def test_invalid_sizes_are_rejected(tmp_path, lengths):
    assert_rejected(
        patched(tmp_path, 40, struct.pack("<4h", *lengths)), "bad_dims", "1 to 7 positive dimensions"
    )


def test_infinite_scaling_is_rejected(tmp_path):
    bad = struct.pack("<2f", 2.0, float("inf"))
    assert_rejected(patched(tmp_path, 112, bad), "bad_scaling", "finite slope and intercept")


def test_trailing_axes_of_one_are_dropped(tmp_path):
    assert read_image(saved(tmp_path, volume()[..., None, None])).array.shape == (5, 6, 7)
    assert read_image(saved(tmp_path, volume(shape=(5, 6, 1)))).array.shape == (5, 6, 1)


def test_other_numbers_of_axes_are_rejected(tmp_path):
    assert_rejected(
        saved(tmp_path, volume(shape=(4, 5, 6, 2))), "time_series", "4 axes .4×5×6×2., expected 3"
    )
    assert_rejected(saved(tmp_path, volume(shape=(2, 2, 2, 2, 2))), "not_3d", "5 axes .* expected 2 to 4")
    assert_rejected(saved(tmp_path, volume(shape=(5,))), "not_3d", "1 axes")
    assert read_image(saved(tmp_path, volume(shape=(4, 5)))).array.shape == (4, 5, 1)


def test_other_files_are_rejected(tmp_path):
    path = tmp_path / "notes.nii"
    for content in (b"", b"ab", b"Jane Doe, born 1950, " * 40):
        path.write_bytes(content)
        assert_rejected(path, "not_nifti", "does not begin with the size of a NIfTI header")
    path.write_bytes(gzip.compress(b"Jane Doe " * 400))
    assert_rejected(path, "not_nifti", "expected a NIfTI-1 or NIfTI-2 image")
    assert_rejected(patched(tmp_path, 344, b"abc\0"), "not_nifti", "its magic number is wrong")
    assert_rejected(
        patched(tmp_path, 108, struct.pack("<f", float("nan"))), "not_nifti", "offset of its voxels"
    )
    assert_rejected(patched(tmp_path, 108, struct.pack("<f", 1e9)), "not_nifti", "offset of its voxels")


def test_an_offset_of_zero_is_the_default(tmp_path):
    loaded = load_nifti(patched(tmp_path, 108, struct.pack("<f", 0.0)))
    np.testing.assert_array_equal(loaded.image.array, volume())
    assert loaded.repairs == ("voxel_offset_default",)
