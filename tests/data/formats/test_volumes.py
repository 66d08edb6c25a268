"""NRRD and MetaImage volumes match SimpleITK; ambiguous files are rejected."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medmim.data.formats.nifti import Image, LoadedImage, read_image
from medmim.data.formats.volumes import fill_background, read_volume
from medmim.errors import DataError

TURN = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def volume():
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetDirection(TURN)
    return image


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_the_result_equals_the_nifti_file_of_the_same_volume(tmp_path, volume, name):
    sitk.WriteImage(volume, str(tmp_path / name))
    sitk.WriteImage(volume, str(tmp_path / "a.nii.gz"))
    image, repairs = read_volume(tmp_path / name)
    other = read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(image.array, other.array)
    assert np.allclose(image.affine, other.affine, atol=1e-5)
    assert repairs == ()


def test_without_simpleitk_the_extra_is_named(tmp_path, volume, monkeypatch):
    sitk.WriteImage(volume, str(tmp_path / "a.nrrd"))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(DataError, match=r"need SimpleITK, .*: run `pip install 'medmim\[itk\]'`") as refused:
        read_volume(tmp_path / "a.nrrd")
    assert refused.value.reason == "no_decoder"


def test_a_nrrd_in_ras_is_converted(tmp_path, volume):
    sitk.WriteImage(volume, str(tmp_path / "a.nrrd"), useCompression=False)
    straight, _ = read_volume(tmp_path / "a.nrrd")
    content = (tmp_path / "a.nrrd").read_bytes()
    ras = content.replace(b"left-posterior-superior", b"right-anterior-superior")
    assert ras != content
    (tmp_path / "b.nrrd").write_bytes(ras)
    turned, _ = read_volume(tmp_path / "b.nrrd")
    assert np.allclose(turned.affine, np.diag([-1, -1, 1, 1]) @ straight.affine, atol=1e-6)


def refusal(path):
    with pytest.raises(DataError, match="expected") as caught:
        read_volume(path)
    return caught.value.reason


def test_ambiguous_files_are_rejected(tmp_path, volume):
    sitk.WriteImage(volume, str(tmp_path / "a.nrrd"), useCompression=False)
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "b.nrrd").write_bytes(
        content.replace(b"space: left-posterior-superior", b"space: scanner-xyz")
    )
    assert refusal(tmp_path / "b.nrrd") == "no_orientation"
    (tmp_path / "c.nrrd").write_bytes(content.replace(b"endian: little", b"data file: /etc/passwd"))
    assert refusal(tmp_path / "c.nrrd") == "detached_data"
    (tmp_path / "d.nrrd").write_bytes(content[:200])
    assert refusal(tmp_path / "d.nrrd") in ("damaged", "no_orientation")
    sitk.WriteImage(volume, str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "b.mha").write_bytes(content.replace(b"TransformMatrix", b"Comment"))
    assert refusal(tmp_path / "b.mha") == "no_orientation"
    (tmp_path / "c.mha").write_bytes(content.replace(b"ElementDataFile = LOCAL", b"ElementDataFile = ../x"))
    assert refusal(tmp_path / "c.mha") == "detached_data"
    sitk.WriteImage(sitk.Compose(volume, volume), str(tmp_path / "d.mha"))
    assert refusal(tmp_path / "d.mha") == "not_scalar"
    sitk.WriteImage(volume[:, :, 0], str(tmp_path / "e.mha"))
    assert refusal(tmp_path / "e.mha") == "not_3d"


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
@pytest.mark.parametrize("number", [b"99999999999", b"x"])
def test_an_impossible_number_of_axes_is_damage(tmp_path, volume, name, number):
    sitk.WriteImage(volume, str(tmp_path / name), useCompression=False)
    content = (tmp_path / name).read_bytes()
    changed = content.replace(b"NDims = 3", b"NDims = " + number).replace(
        b"dimension: 3", b"dimension: " + number
    )
    assert changed != content
    (tmp_path / name).write_bytes(changed)
    assert refusal(tmp_path / name) == "damaged"


def test_detached_voxels_must_be_next_to_the_header(tmp_path, volume):
    sitk.WriteImage(volume, str(tmp_path / "a.mhd"))
    (tmp_path / "a.raw").rename(tmp_path / "kept.raw")
    assert refusal(tmp_path / "a.mhd") == "unreadable"
    (tmp_path / "a.raw").symlink_to(tmp_path / "kept.raw")
    assert refusal(tmp_path / "a.mhd") == "unreadable"


def test_a_background_of_nan_is_filled():
    array = np.random.default_rng(0).normal(5, 1, (8, 8, 8)).astype(np.float32)
    array[:2], array[:, :, 7] = np.nan, np.nan
    loaded = fill_background(LoadedImage(Image(array, np.eye(4))))
    low = float(np.nanmin(array))
    assert loaded.repairs == ("nan_background",)
    assert loaded.measured == {"nan_voxels": float(np.isnan(array).sum()), "nan_replaced_by": low}
    np.testing.assert_array_equal(loaded.image.array, np.nan_to_num(array, nan=low))
    array[4, 4, 4] = np.nan  # inside the body
    unchanged = LoadedImage(Image(array, np.eye(4)))
    assert fill_background(unchanged) is unchanged
