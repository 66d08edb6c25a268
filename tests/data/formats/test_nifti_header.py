"""Invalid NIfTI headers are rejected with the reason that applies."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
from nifti_files import assert_rejected, patched, rotated, saved, volume

from medmim.data.formats.nifti import read_image


@pytest.mark.parametrize("lengths", [(0, 5, 6, 7), (8, 5, 6, 7), (3, 5, 0, 7), (3, 5, -6, 7), (-1, 5, 6, 7)])
def test_invalid_sizes_are_rejected(tmp_path, lengths):
    assert_rejected(
        patched(tmp_path, 40, struct.pack("<4h", *lengths)), "bad_dims", "1 to 7 positive dimensions"
    )


def test_infinite_scaling_is_rejected(tmp_path):
    bad = struct.pack("<2f", 2.0, float("inf"))
    assert_rejected(patched(tmp_path, 112, bad), "bad_scaling", "finite slope and intercept")


def sform(matrix):
    return struct.pack("<12f", *np.asarray(matrix, float)[:3].ravel())


@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        (np.full((4, 4), np.nan), "finite numbers"),
        (np.zeros((4, 4)), "spacing above 0"),
        (np.diag([1, 1, 101, 1]), "up to 100 mm, got 1 × 1 × 101"),
        ([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], "singular matrix"),
    ],
)
def test_invalid_affines_are_rejected(tmp_path, matrix, match):
    assert_rejected(patched(tmp_path, 280, sform(matrix)), "bad_affine", match)


def test_invalid_quaternions_are_rejected(tmp_path):
    path = patched(tmp_path, 252, struct.pack("<2h3f", 1, 0, 2.0, 2.0, 2.0))
    assert_rejected(path, "bad_affine", "unit quaternion")


def test_files_without_orientation_are_rejected(tmp_path):
    assert_rejected(patched(tmp_path, 252, struct.pack("<2h", 0, 0)), "no_orientation", "left and right")


def test_the_qform_is_used_without_an_sform(tmp_path):
    path = saved(tmp_path, volume(), rotated(), edit=lambda header: header.set_sform(None, code=0))
    with_q = nib.load(path)
    with_q.set_qform(rotated(), code=1)
    with_q.set_sform(None, code=0)
    nib.save(with_q, tmp_path / "q.nii")
    np.testing.assert_allclose(read_image(tmp_path / "q.nii").affine, rotated(), atol=1e-5)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    assert read_image(saved(tmp_path, volume()[..., None, None])).array.shape == (5, 6, 7)
    assert read_image(saved(tmp_path, volume(shape=(5, 6, 1)))).array.shape == (5, 6, 1)


def test_other_numbers_of_axes_are_rejected(tmp_path):
    assert_rejected(saved(tmp_path, volume(shape=(4, 5, 6, 2))), "not_3d", "4 axes .4×5×6×2., expected 3")
    assert_rejected(saved(tmp_path, volume(shape=(4, 5))), "not_3d", "2 axes")


def test_other_files_are_rejected(tmp_path):
    path = tmp_path / "notes.nii"
    for content in (b"", b"ab", b"Jane Doe, born 1950, " * 40):
        path.write_bytes(content)
        assert_rejected(path, "not_nifti", "does not begin with the size of a NIfTI header")
    path.write_bytes(gzip.compress(b"Jane Doe " * 400))
    assert_rejected(path, "not_nifti", "expected a single-file NIfTI")
    assert_rejected(patched(tmp_path, 344, b"ni1\0"), "not_nifti", "to .nii")
    assert_rejected(
        patched(tmp_path, 108, struct.pack("<f", float("nan"))), "not_nifti", "offset of its voxels"
    )
    assert_rejected(patched(tmp_path, 108, struct.pack("<f", 1e9)), "not_nifti", "offset of its voxels")
