"""NIfTI in and out: nibabel's numbers, every kind of bad file refused by name, no text written."""

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from medmim.data.formats.nifti import Image, check_image, encode_image, read_image
from medmim.errors import DataError

OBLIQUE = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.0, 0.05, -20], [0, -0.05, 2.5, 5], [0, 0, 0, 1]])


def volume(dtype=np.int16, shape=(5, 6, 7)):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def rotated(spacing=(1.0, 1.2, 2.5)):
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = [-10, 20, 30]
    return affine


def saved(tmp_path, array, affine=OBLIQUE, *, kind=nib.Nifti1Image, name="scan.nii.gz", edit=None):
    image = kind(array, affine)
    if edit:
        edit(image.header)
    nib.save(image, tmp_path / name)
    return tmp_path / name


def patched(tmp_path, offset, content, *, array=None, extra=b""):
    """A sound NIfTI-1 file with `content` at `offset` of its header."""
    raw = bytearray(encode_plain(volume() if array is None else array))
    raw[offset : offset + len(content)] = content
    path = tmp_path / "bad.nii"
    path.write_bytes(bytes(raw) + extra)
    return path


def encode_plain(array):
    return gzip.decompress(encode_image(Image(array, rotated())))


def refused(path, reason, match):
    with pytest.raises(DataError, match=match) as caught:
        read_image(path)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert path.name not in str(caught.value)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_reading_equals_nibabel(tmp_path, kind, name, dtype):
    path = saved(tmp_path, volume(dtype), kind=kind, name=name)
    image, theirs = read_image(path), nib.load(path)
    assert image.array.dtype == (np.float32 if np.dtype(dtype).kind == "f" else dtype)
    np.testing.assert_array_equal(image.array, theirs.get_fdata())
    np.testing.assert_array_equal(image.affine, theirs.affine)
    assert image.orientation == "".join(nib.aff2axcodes(theirs.affine))
    np.testing.assert_allclose(image.spacing_mm, theirs.header.get_zooms(), rtol=1e-6)


def test_big_endian_files_are_read(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(volume(">i2"), OBLIQUE, header)
    nib.save(image, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    np.testing.assert_array_equal(read_image(tmp_path / "big.nii").array, volume())


def test_scaling_is_applied(tmp_path):
    path = saved(tmp_path, volume(), edit=lambda header: header.set_slope_inter(0.5, -3))
    image = read_image(path)
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.array, nib.load(path).get_fdata(), atol=1e-4)


def test_the_qform_serves_where_no_sform_is(tmp_path):
    path = saved(tmp_path, volume(), rotated(), edit=lambda header: header.set_sform(None, code=0))
    with_q = nib.load(path)
    with_q.set_qform(rotated(), code=1)
    with_q.set_sform(None, code=0)
    nib.save(with_q, tmp_path / "q.nii")
    np.testing.assert_allclose(read_image(tmp_path / "q.nii").affine, rotated(), atol=1e-5)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    assert read_image(saved(tmp_path, volume()[..., None, None])).array.shape == (5, 6, 7)
    assert read_image(saved(tmp_path, volume(shape=(5, 6, 1)))).array.shape == (5, 6, 1)


def test_several_channels_and_flat_pictures_are_refused(tmp_path):
    refused(saved(tmp_path, volume(shape=(4, 5, 6, 2))), "not_3d", "4 axes .4×5×6×2., expected 3")
    refused(saved(tmp_path, volume(shape=(4, 5))), "not_3d", "2 axes")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "notes.nii"
    for content in (b"", b"ab", b"Jane Doe, born 1950, " * 40):
        path.write_bytes(content)
        refused(path, "not_nifti", "does not begin with the size of a header")
    path.write_bytes(gzip.compress(b"Jane Doe " * 400))
    refused(path, "not_nifti", "expected a single-file NIfTI")
    refused(patched(tmp_path, 344, b"ni1\0"), "not_nifti", "convert them to .nii")
    refused(patched(tmp_path, 108, struct.pack("<f", float("nan"))), "not_nifti", "place of its voxels")
    refused(patched(tmp_path, 108, struct.pack("<f", 1e9)), "not_nifti", "place of its voxels")


def test_devices_pipes_folders_and_absent_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.nii")
    refused(tmp_path / "fifo.nii", "unreadable", "got a folder, device or pipe")
    (tmp_path / "folder.nii").mkdir()
    refused(tmp_path / "folder.nii", "unreadable", "got a folder, device or pipe")
    refused(tmp_path / "absent.nii", "unreadable", "FileNotFoundError")


@pytest.mark.parametrize("keep", [3, 100, 347, 351, 400, -1])
def test_files_cut_short_are_refused(tmp_path, keep):
    path = tmp_path / "cut.nii"
    path.write_bytes(encode_plain(volume())[:keep])
    refused(path, "not_nifti" if keep == 3 else "truncated", "ends early" if keep != 3 else "begin")


@pytest.mark.parametrize("keep", [12, 200, -1, -9])
def test_packed_files_cut_short_are_refused(tmp_path, keep):
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(encode_image(Image(volume(), rotated()))[:keep])
    refused(path, "truncated", "ends early")


def test_packed_files_with_a_wrong_checksum_are_refused(tmp_path):
    path = tmp_path / "flip.nii.gz"
    packed = bytearray(encode_image(Image(volume(), rotated())))
    packed[-6] ^= 0xFF
    path.write_bytes(packed)
    refused(path, "damaged", "fails its own check")
    packed[12:20] = b"\xff" * 8
    path.write_bytes(packed)
    refused(path, "damaged", "fails its own check")


def test_bytes_after_the_voxels_do_not_matter(tmp_path):
    path = patched(tmp_path, 148, b"", extra=b"trailing")
    np.testing.assert_array_equal(read_image(path).array, volume())


@pytest.mark.parametrize("lengths", [(0, 5, 6, 7), (8, 5, 6, 7), (3, 5, 0, 7), (3, 5, -6, 7), (-1, 5, 6, 7)])
def test_impossible_sizes_are_refused(tmp_path, lengths):
    refused(patched(tmp_path, 40, struct.pack("<4h", *lengths)), "bad_dims", "1 to 7 positive sizes")


def test_huge_sizes_are_refused_before_anything_is_unpacked(tmp_path):
    refused(
        patched(tmp_path, 40, struct.pack("<4h", 3, 17000, 6, 7)), "too_large", "up to 16384 along an axis"
    )
    refused(patched(tmp_path, 40, struct.pack("<4h", 3, 4096, 4096, 4096)), "too_large", "2e.09 in all")
    refused(patched(tmp_path, 40, struct.pack("<4h", 3, 1280, 1280, 1220)), "truncated", "ends early")
    floats = patched(tmp_path, 40, struct.pack("<4h", 3, 1280, 1280, 1220), array=volume(np.float32))
    refused(floats, "too_large", "GiB of voxels")


def test_a_bomb_is_only_unpacked_as_far_as_its_sizes_say(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(encode_plain(volume()) + bytes(200_000_000), 1))
    np.testing.assert_array_equal(read_image(path).array, volume())


def test_colours_and_complex_numbers_are_refused(tmp_path):
    colours = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(saved(tmp_path, colours), "not_scalar", "colour or complex")
    refused(saved(tmp_path, volume(np.complex64)), "not_scalar", "colour or complex")
    refused(patched(tmp_path, 70, struct.pack("<h", 9999)), "not_scalar", "an unknown type")


@pytest.mark.parametrize("packed", [False, True])
def test_no_damage_gets_past_the_checks(tmp_path, packed):
    rng = np.random.default_rng(2)
    sound = encode_plain(volume())
    path = tmp_path / "damaged.nii"
    reasons = set()
    for _ in range(400):
        raw = bytearray(sound)
        for place in rng.integers(0, 352, rng.integers(1, 6)):
            raw[place] = rng.integers(0, 256)
        path.write_bytes(gzip.compress(bytes(raw), 1) if packed else bytes(raw))
        try:
            image = read_image(path)
        except DataError as error:
            reasons.add(error.reason)
        else:
            assert image.array.ndim == 3
            assert np.isfinite(image.affine).all()
    assert len(reasons) > 5


def test_infinite_scaling_is_refused(tmp_path):
    bad = struct.pack("<2f", 2.0, float("inf"))
    refused(patched(tmp_path, 112, bad), "bad_scaling", "finite slope and intercept")


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
def test_impossible_affines_are_refused(tmp_path, matrix, match):
    refused(patched(tmp_path, 280, sform(matrix)), "bad_affine", match)


def test_impossible_quaternions_are_refused(tmp_path):
    path = patched(tmp_path, 252, struct.pack("<2h3f", 1, 0, 2.0, 2.0, 2.0))
    refused(path, "bad_affine", "unit quaternion")


def test_files_without_orientation_are_refused(tmp_path):
    refused(patched(tmp_path, 252, struct.pack("<2h", 0, 0)), "no_orientation", "which side is left")


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
def test_types_are_stored_as_small_as_they_fit(tmp_path, given, stored):
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


def test_other_types_cannot_be_stored():
    with pytest.raises(DataError, match="expected one integer or real number each") as caught:
        encode_image(Image(volume(np.complex64), np.eye(4)))
    assert caught.value.reason == "not_scalar"


@pytest.mark.parametrize(
    ("affine", "qform_code"), [(rotated(), 1), (np.diag([-1.0, -1, 2, 1]), 1), (OBLIQUE, 0)]
)
def test_place_in_space_survives_and_qform_never_lies(tmp_path, affine, qform_code):
    path = tmp_path / "out.nii.gz"
    path.write_bytes(encode_image(Image(volume(), affine)))
    theirs = nib.load(path)
    np.testing.assert_allclose(read_image(path).affine, affine, atol=1e-5)
    np.testing.assert_allclose(theirs.affine, affine, atol=1e-5)
    np.testing.assert_allclose(theirs.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)
    assert (int(theirs.header["sform_code"]), int(theirs.header["qform_code"])) == (1, qform_code)
    if qform_code:
        np.testing.assert_allclose(theirs.get_qform(), affine, atol=1e-4)


def test_equal_images_have_equal_bytes_and_memory_order_does_not_matter():
    first = encode_image(Image(volume(), OBLIQUE))
    assert first == encode_image(Image(np.asfortranarray(volume()), OBLIQUE.copy()))
    assert first[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time, no system


def test_the_header_carries_no_text(tmp_path):
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


def test_sound_images_pass():
    check_image(Image(volume(), OBLIQUE))
    check_image(Image(volume(np.float32), OBLIQUE))


@pytest.mark.parametrize(
    ("array", "affine", "reason", "match"),
    [
        (volume(shape=(5, 6, 1)), np.eye(4), "too_few_slices", "5×6×1 voxels"),
        (np.full((4, 5, 6), 7), np.eye(4), "constant_image", "one value everywhere"),
        (np.where(volume() > 98, np.nan, 1.0), np.eye(4), "non_finite_voxels", "voxels that are NaN"),
        (np.where(volume() > 98, np.inf, 1.0), np.eye(4), "non_finite_voxels", "voxels that are NaN"),
        (volume(), np.zeros((4, 4)), "bad_affine", "spacing above 0"),
    ],
)
def test_images_of_no_use_are_refused(array, affine, reason, match):
    with pytest.raises(DataError, match=match) as caught:
        check_image(Image(array, affine))
    assert caught.value.reason == reason


def test_floats_too_large_for_single_precision_are_noticed(tmp_path):
    path = saved(tmp_path, volume(np.float64) * 1e300)
    with pytest.raises(DataError, match="NaN or infinite"):
        check_image(read_image(path))
