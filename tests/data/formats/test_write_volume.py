"""Volumes are written without text, in the smallest type; the voxel digest ignores the header."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from nifti_files import OBLIQUE, rotated, saved, volume

from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image, pixels_digest
from medmim.errors import DataError

ARRAY = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (np.bool_, np.uint8),
        (np.int8, np.int8),
        (np.uint8, np.uint8),
        (np.int16, np.int16),
        (np.uint16, np.uint16),
        (np.int32, np.int32),
        (np.int64, np.uint8),
        (np.uint64, np.uint8),
        (np.float16, np.float32),
        (np.float64, np.float32),
        (">i2", np.int16),
        (">f4", np.float32),
    ],
)
def test_voxels_use_the_smallest_type(tmp_path, given, stored):
    array = volume(given)
    path = tmp_path / "out.nii.gz"
    path.write_bytes(encode_image(Image(array, OBLIQUE)))
    theirs = nib.load(path)
    assert theirs.get_data_dtype() == stored
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), array.astype(stored))
    np.testing.assert_array_equal(read_image(path).array, array.astype(stored))


def test_wide_integers_keep_their_values(tmp_path):
    for low, high, stored in [
        (-5, 10, np.int16),
        (0, 70000, np.int32),
        (-1, 2**40, np.int64),
        (0, 2**32 - 1, np.uint32),
    ]:
        array = np.full((2, 2, 2), low, np.int64)
        array[0, 0, 0] = high
        (tmp_path / "out.nii.gz").write_bytes(encode_image(Image(array, np.eye(4))))
        image = read_image(tmp_path / "out.nii.gz")
        assert image.array.dtype == stored
        np.testing.assert_array_equal(image.array, array)


def test_complex_voxels_are_rejected():
    with pytest.raises(DataError, match="expected one integer or real number each") as caught:
        encode_image(Image(volume(np.complex64), np.eye(4)))
    assert caught.value.reason == "not_scalar"


@pytest.mark.parametrize(
    ("affine", "qform_code"), [(rotated(), 1), (np.diag([-1.0, -1, 2, 1]), 1), (OBLIQUE, 0)]
)
def test_the_affine_is_preserved_and_the_qform_agrees(tmp_path, affine, qform_code):
    path = tmp_path / "out.nii.gz"
    path.write_bytes(encode_image(Image(volume(), affine)))
    theirs = nib.load(path)
    np.testing.assert_allclose(read_image(path).affine, affine, atol=1e-5)
    np.testing.assert_allclose(theirs.affine, affine, atol=1e-5)
    np.testing.assert_allclose(theirs.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)
    assert (int(theirs.header["sform_code"]), int(theirs.header["qform_code"])) == (1, qform_code)
    if qform_code:
        np.testing.assert_allclose(theirs.get_qform(), affine, atol=1e-4)


def test_equal_images_give_equal_bytes():
    first = encode_image(Image(volume(), OBLIQUE))
    assert first == encode_image(Image(np.asfortranarray(volume()), OBLIQUE.copy()))
    assert first[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time, no system


def test_the_header_contains_no_text(tmp_path):
    def edit(header):
        header["descrip"] = b"Doe^Jane 19500101"
        header["aux_file"] = b"/data/Jane"
        header["intent_name"] = b"Jane"
        header["db_name"] = b"Jane"
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Patient: Jane Doe"))

    source = saved(tmp_path, volume(), edit=edit)
    assert b"Jane" in gzip.decompress(source.read_bytes())
    raw = gzip.decompress(encode_image(read_image(source)))
    assert b"Jane" not in raw
    header = nib.Nifti1Header(raw[:348])
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        assert not bytes(header[field]).strip(b"\0")
    assert header["vox_offset"] == 352
    assert raw[348:352] == bytes(4)
    assert len(raw) == 352 + volume().nbytes


def turned(array, affine):
    """The same voxels with two axes exchanged and one reversed."""
    move = np.eye(4)[:, [1, 0, 2, 3]]
    move[2, 2], move[2, 3] = -1, array.shape[2] - 1
    return Image(np.ascontiguousarray(array.transpose(1, 0, 2)[:, :, ::-1]), affine @ move)


def test_equal_voxels_have_equal_digests():
    image = Image(ARRAY, np.diag([1.0, 2.0, 3.0, 1.0]))
    assert pixels_digest(image) == pixels_digest(
        Image(ARRAY.astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
    )
    assert pixels_digest(image) == pixels_digest(turned(ARRAY, image.affine))


def test_different_voxels_have_different_digests():
    image = Image(ARRAY, np.eye(4))
    other = ARRAY.copy()
    other[1, 2, 3] += 1
    assert pixels_digest(image) != pixels_digest(Image(other, np.eye(4)))
    assert pixels_digest(image) != pixels_digest(Image(ARRAY.reshape(5, 4, 6), np.eye(4)))
    assert pixels_digest(image) != pixels_digest(Image(ARRAY[::-1], np.eye(4)))
