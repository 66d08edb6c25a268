"""NIfTI files are read as nibabel reads them; every kind of damage is rejected with its reason."""

import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest
from nifti_files import OBLIQUE, assert_rejected, encode_plain, patched, rotated, saved, volume

from medmim.data.formats.nifti import Image, check_image, count_frames, load_nifti, read_image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError


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


@pytest.mark.parametrize(("slope", "flagged"), [("inf", True), ("-inf", True), ("nan", True), ("0", False)])
def test_an_infinite_or_nan_slope_is_ignored_and_flagged(tmp_path, slope, flagged):
    loaded = load_nifti(patched(tmp_path, 112, struct.pack("<2f", float(slope), 5.0)))
    np.testing.assert_array_equal(loaded.image.array, volume())
    assert ("non_finite_slope_ignored" in loaded.repairs) == flagged
    numbers = {"slope_used": 1.0, "intercept_used": 0.0}
    assert {name: value for name, value in loaded.measured.items() if name in numbers} == (
        numbers if flagged else {}
    )


def test_devices_pipes_folders_and_missing_files_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "fifo.nii")
    assert_rejected(tmp_path / "fifo.nii", "unreadable", "got a folder, device or pipe")
    (tmp_path / "folder.nii").mkdir()
    assert_rejected(tmp_path / "folder.nii", "unreadable", "got a folder, device or pipe")
    assert_rejected(tmp_path / "absent.nii", "unreadable", "FileNotFoundError")


@pytest.mark.parametrize("keep", [3, 100, 347, 351, 400, -1])
def test_truncated_files_are_rejected(tmp_path, keep):
    path = tmp_path / "cut.nii"
    path.write_bytes(encode_plain(volume())[:keep])
    assert_rejected(path, "not_nifti" if keep == 3 else "truncated", "ends early" if keep != 3 else "begin")


@pytest.mark.parametrize("keep", [12, 200, -1, -9])
def test_truncated_compressed_files_are_rejected(tmp_path, keep):
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(encode_image(Image(volume(), rotated()))[:keep])
    assert_rejected(path, "truncated", "ends early")


def test_wrong_checksums_are_rejected(tmp_path):
    path = tmp_path / "flip.nii.gz"
    packed = bytearray(encode_image(Image(volume(), rotated())))
    packed[-6] ^= 0xFF
    path.write_bytes(packed)
    assert_rejected(path, "damaged", "fails the checksum")
    packed[12:20] = b"\xff" * 8
    path.write_bytes(packed)
    assert_rejected(path, "damaged", "fails the checksum")


def test_trailing_bytes_are_ignored(tmp_path):
    path = patched(tmp_path, 148, b"", extra=b"trailing")
    np.testing.assert_array_equal(read_image(path).array, volume())


def test_huge_sizes_are_rejected_before_decompression(tmp_path):
    assert_rejected(
        patched(tmp_path, 40, struct.pack("<4h", 3, 17000, 6, 7)), "too_large", "up to 16384 along an axis"
    )
    assert_rejected(
        patched(tmp_path, 40, struct.pack("<4h", 3, 4096, 4096, 4096)), "too_large", "2e.09 in total"
    )
    assert_rejected(patched(tmp_path, 40, struct.pack("<4h", 3, 1280, 1280, 1220)), "truncated", "ends early")
    floats = patched(tmp_path, 40, struct.pack("<4h", 3, 1280, 1280, 1220), array=volume(np.float32))
    assert_rejected(floats, "too_large", "GiB of voxels")


def test_bombs_are_decompressed_up_to_the_declared_size(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(encode_plain(volume()) + bytes(200_000_000), 1))
    np.testing.assert_array_equal(read_image(path).array, volume())


def test_complex_and_unknown_voxels_are_rejected(tmp_path):
    assert_rejected(saved(tmp_path, volume(np.complex64)), "not_scalar", "transparency or complex")
    assert_rejected(patched(tmp_path, 70, struct.pack("<h", 9999)), "not_scalar", "an unknown type")


def test_colours_become_grey(tmp_path):
    colours = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"][1], colours["G"][2], colours["B"][3] = 200, 200, 200
    loaded = load_nifti(saved(tmp_path, colours))
    assert loaded.repairs == ("colour_to_grey",)
    assert loaded.image.array[:, 0, 0].tolist() == [0, 60, 117, 23]


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_frames_of_the_fourth_axis_are_read_one_by_one(tmp_path, name):
    array = volume(shape=(4, 5, 6, 3))
    path = saved(tmp_path, array, name=name)
    assert count_frames(str(path)) == 3
    for frame in range(3):
        np.testing.assert_array_equal(load_nifti(path, frame=frame).image.array, array[..., frame])
    with pytest.raises(DataError, match=r"4 axes .4×5×6×3., expected 3"):
        load_nifti(path, frame=3)
    assert count_frames(str(saved(tmp_path, volume()))) == 1


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_pairs_are_read_from_their_header(tmp_path, kind):
    nib.save(kind(volume(), OBLIQUE), tmp_path / "scan.hdr")
    loaded = load_nifti(tmp_path / "scan.hdr")
    np.testing.assert_array_equal(loaded.image.array, volume())
    np.testing.assert_allclose(loaded.image.affine, OBLIQUE)
    (tmp_path / "scan.img").unlink()
    with pytest.raises(DataError, match=r"expected an \.img file of the same name"):
        load_nifti(tmp_path / "scan.hdr")


@pytest.mark.parametrize("packed", [False, True])
def test_random_header_damage_is_caught(tmp_path, packed):
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


def test_valid_images_pass():
    check_image(Image(volume(), OBLIQUE))
    check_image(Image(volume(np.float32), OBLIQUE))


@pytest.mark.parametrize(
    ("array", "affine", "reason", "match"),
    [
        (volume(shape=(5, 6, 1)), np.eye(4), "too_few_slices", "5×6×1 voxels"),
        (np.full((4, 5, 6), 7), np.eye(4), "constant_image", "one value everywhere"),
        (
            np.where(volume() > 98, np.nan, 1.0),
            np.eye(4),
            "non_finite_voxels",
            "no NaN or infinite voxels, got",
        ),
        (
            np.where(volume() > 98, np.inf, 1.0),
            np.eye(4),
            "non_finite_voxels",
            "no NaN or infinite voxels, got",
        ),
        (volume(), np.zeros((4, 4)), "bad_affine", "spacing above 0"),
    ],
)
def test_images_without_information_are_rejected(array, affine, reason, match):
    with pytest.raises(DataError, match=match) as caught:
        check_image(Image(array, affine))
    assert caught.value.reason == reason


def test_float32_overflow_is_rejected(tmp_path):
    path = saved(tmp_path, volume(np.float64) * 1e300)
    with pytest.raises(DataError, match="NaN or infinite"):
        check_image(read_image(path))
