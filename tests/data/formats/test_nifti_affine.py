"""Contradictions between sform, qform, pixdim and units are resolved by rule and reported, or rejected."""

import struct

import nibabel as nib
import numpy as np
import pytest
from nifti_files import assert_rejected, patched, rotated, saved, volume

from medmim.data.formats.nifti import load_nifti


def scan(tmp_path, sform, qform, *, codes=(1, 1), pixdim=None, units=2, name="scan.nii"):
    """Write a file with these forms; None for a form with code 0."""
    header = nib.Nifti1Header()
    header.set_data_shape((5, 6, 7))
    header.set_data_dtype(np.int16)
    header.set_qform(qform, code=0 if qform is None else codes[1])
    if sform is not None:
        for row, values in zip(("srow_x", "srow_y", "srow_z"), sform, strict=False):
            header[row] = values
        header["sform_code"] = codes[0]
    if pixdim is not None:
        header["pixdim"][1:4] = pixdim
    header["xyzt_units"] = units
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / name).write_bytes(header.binaryblock + bytes(4) + volume().tobytes(order="F"))
    return tmp_path / name


TRUE = rotated((1.3158, 1.3158, 10.0))
UNIT = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_agreeing_forms_are_right(tmp_path):
    loaded = load_nifti(scan(tmp_path, TRUE, TRUE))
    assert (loaded.repairs, loaded.measured) == ((), {})
    np.testing.assert_allclose(loaded.image.affine, TRUE, atol=1e-4)


@pytest.mark.parametrize(("shear", "degrees"), [(0.01, None), (0.3, 16.7)])
def test_sheared_axes_are_kept_and_reported(tmp_path, shear, degrees):
    sform = UNIT.copy()
    sform[0, 1] = shear
    pixdim = np.linalg.norm(sform[:3, :3], axis=0)
    loaded = load_nifti(scan(tmp_path, sform, None, pixdim=pixdim))
    assert loaded.repairs == (("sheared_axes_kept",) if degrees else ())
    assert loaded.measured.get("shear_degrees") == (pytest.approx(degrees, abs=0.1) if degrees else None)
    np.testing.assert_allclose(loaded.image.affine, sform, atol=1e-6)


def test_a_unit_sform_gives_way_to_the_qform(tmp_path):
    """The published ACDC files: the sform has 1 mm, qform and pixdim the truth."""
    loaded = load_nifti(scan(tmp_path, UNIT, np.diag([-1.3158, -1.3158, 10, 1])))
    assert loaded.repairs == ("sform_spacing_ignored",)
    np.testing.assert_allclose(loaded.image.spacing_mm, (1.3158, 1.3158, 10), rtol=1e-5)
    assert loaded.measured["sform_mm_2"] == 1.0
    assert loaded.measured["pixdim_mm_2"] == pytest.approx(10)


def test_a_unit_sform_without_qform_is_rejected(tmp_path):
    path = scan(tmp_path, UNIT, None, pixdim=(1.3158, 1.3158, 10))
    assert_rejected(
        path, "contradictory_spacing", "got 1 × 1 × 1 mm in the sform and 1.3158 × 1.3158 × 10 mm"
    )


@pytest.mark.parametrize("qform", [None, UNIT])
def test_a_unit_pixdim_gives_way_to_the_sform(tmp_path, qform):
    loaded = load_nifti(scan(tmp_path, np.diag([-2.0, -2, 5, 1]), qform, pixdim=(1, 1, 1)))
    assert loaded.repairs == ("pixdim_ignored",)
    assert loaded.image.spacing_mm == (2, 2, 5)


def test_an_sform_of_another_space_gives_way_to_the_scanner(tmp_path):
    mni = np.diag([-1.1, -1.2, 2.6, 1.0])
    loaded = load_nifti(scan(tmp_path, mni, np.diag([-1.0, -1.2, 2.5, 1]), codes=(4, 1)))
    assert loaded.repairs == ("sform_spacing_ignored",)
    np.testing.assert_allclose(loaded.image.spacing_mm, (1, 1.2, 2.5), rtol=1e-6)


def test_other_contradictory_spacings_are_rejected(tmp_path):
    path = scan(tmp_path, np.diag([-2.0, -2, 5, 1]), np.diag([-2.0, -2, 3, 1]))
    assert_rejected(path, "contradictory_spacing", "expected one spacing")


@pytest.mark.parametrize("codes", [(1, 1), (2, 1)])
def test_mirrored_forms_are_rejected(tmp_path, codes):
    path = scan(tmp_path, np.diag([2.0, 2, 5, 1]), np.diag([-2.0, 2, 5, 1]), codes=codes)
    assert_rejected(path, "contradictory_orientation", "got RAS in the sform and LAS in the qform")


def test_forms_of_equal_code_in_other_directions_are_rejected(tmp_path):
    path = scan(tmp_path, np.diag([2.0, 2, 5, 1]), np.diag([-2.0, -2, 5, 1]))
    assert_rejected(path, "contradictory_orientation", "got RAS in the sform and LPS in the qform")
    turned = load_nifti(scan(tmp_path, np.diag([2.0, 2, 5, 1]), np.diag([-2.0, -2, 5, 1]), codes=(2, 1)))
    assert turned.repairs == ()  # codes name different spaces


def test_a_qform_at_another_position_is_flagged(tmp_path):
    moved = TRUE.copy()
    moved[0, 3] += 40
    loaded = load_nifti(scan(tmp_path, TRUE, moved))
    assert loaded.repairs == ("qform_ignored",)
    assert loaded.measured["qform_offset_voxels"] == pytest.approx(40 / 1.3158, rel=1e-3)
    np.testing.assert_allclose(loaded.image.affine, TRUE, atol=1e-4)


@pytest.mark.parametrize(("units", "factor"), [(1, 1000.0), (3, 0.001)])
def test_metres_and_micrometres_are_converted(tmp_path, units, factor):
    scale = np.diag([1 / factor] * 3 + [1])
    loaded = load_nifti(scan(tmp_path, scale @ TRUE, scale @ TRUE, units=units))
    assert (loaded.repairs, loaded.measured) == (("units_converted",), {"mm_per_unit": factor})
    np.testing.assert_allclose(loaded.image.affine, TRUE, rtol=1e-4, atol=1e-3)


def test_implausible_units_are_rejected(tmp_path):
    assert_rejected(scan(tmp_path, TRUE, TRUE, units=1), "bad_affine", "up to 100 mm, got 1315.8")
    assert_rejected(scan(tmp_path, TRUE, TRUE, units=3), "bad_affine", "an extent of at least 1 mm")


def test_unknown_units_are_millimetres(tmp_path):
    np.testing.assert_allclose(load_nifti(scan(tmp_path, TRUE, TRUE, units=0)).image.affine, TRUE, atol=1e-4)


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
    path = patched(tmp_path, 280, sform(matrix))
    loaded = load_nifti(path)  # the qform is valid
    assert loaded.repairs == ("sform_invalid",)
    np.testing.assert_allclose(loaded.image.affine, rotated(), atol=1e-5)
    content = bytearray(path.read_bytes())
    content[252:254] = bytes(2)
    path.write_bytes(content)
    assert_rejected(path, "bad_affine", match)


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
    np.testing.assert_allclose(load_nifti(tmp_path / "q.nii").image.affine, rotated(), atol=1e-5)
