"""Pictures of all formats give upright grey values; ambiguous ones are rejected."""

import gzip
import struct

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from medmim.data.formats.images import as_mask, read_picture
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4)  # 3 rows, 4 columns


def saved(path, pixels, **options):
    PIL.Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.png", RAMP),
        ("a.bmp", RAMP),
        ("a.png", RAMP.astype(np.uint16) * 5000),
        ("a.tif", RAMP.astype(np.uint16) * 5000),
        ("a.tif", RAMP.astype(np.float32) / 7),
        ("a.png", RAMP > 4),
    ],
)
def test_grey_values_are_preserved(tmp_path, name, pixels):
    image, repairs = read_picture(saved(tmp_path / name, pixels))
    assert image.array.shape == (4, 3, 1)
    assert np.array_equal(image.array[..., 0].T, pixels)
    assert (image.orientation, image.spacing_mm, repairs) == ("LPS", (1, 1, 1), ())


def write_tiff(path, pixels, *, white_is_zero=False):
    """Write a TIFF file of one strip, also of the kinds that PIL does not write."""
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    rows, columns = pixels.shape
    data, bits = pixels.tobytes(), pixels.itemsize * 8
    tags = {256: columns, 257: rows, 258: bits, 259: 1, 262: int(not white_is_zero)}
    tags |= {273: 8, 277: 1, 278: rows, 279: len(data), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_files_in_which_white_is_zero_are_read_as_they_are_shown(tmp_path, dtype):
    shown = RAMP.astype(dtype) * (np.iinfo(dtype).max // 12)
    path = write_tiff(tmp_path / "a.tif", np.iinfo(dtype).max - shown, white_is_zero=True)
    image, repairs = read_picture(path)
    assert np.array_equal(image.array[..., 0].T, shown)
    assert (image.array.dtype, repairs) == (dtype, ())


def test_white_is_zero_without_a_known_black_is_rejected(tmp_path):
    path = write_tiff(tmp_path / "a.tif", RAMP.astype(np.float32), white_is_zero=True)
    with pytest.raises(DataError, match="values of this TIFF file are inverted") as caught:
        read_picture(path)
    assert caught.value.reason == "inverted_picture"


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int16, np.uint16])
def test_integers_of_tiff_files_keep_their_sign(tmp_path, dtype):
    pixels = np.linspace(np.iinfo(dtype).min, np.iinfo(dtype).max, 12).astype(dtype).reshape(3, 4)
    image, _ = read_picture(write_tiff(tmp_path / "a.tif", pixels))
    assert np.array_equal(image.array[..., 0].T, pixels)
    assert np.array_equal(
        nib.Nifti1Image.from_bytes(gzip.decompress(encode_image(image))).get_fdata()[..., 0].T, pixels
    )


def test_only_real_colours_count_as_a_repair(tmp_path):
    grey = np.repeat(RAMP[..., None] * 20, 3, axis=2)
    image, repairs = read_picture(saved(tmp_path / "a.png", grey), 0.5)
    assert np.array_equal(image.array[..., 0].T, RAMP * 20)
    assert (repairs, image.spacing_mm) == ((), (0.5, 0.5, 0.5))
    grey[0, 0] = (255, 0, 0)
    assert read_picture(saved(tmp_path / "b.png", grey))[1] == ("colour_to_grey",)


def test_rotated_pictures_are_rejected(tmp_path):
    exif = PIL.Image.Exif()
    exif[274] = 6
    saved(tmp_path / "a.jpg", RAMP, exif=exif)
    with pytest.raises(DataError, match="stored rotated") as caught:
        read_picture(tmp_path / "a.jpg")
    assert caught.value.reason == "turned_picture"


def test_multiple_transparent_and_damaged_pictures_are_rejected(tmp_path):
    first = PIL.Image.fromarray(RAMP)
    first.save(tmp_path / "two.tif", save_all=True, append_images=[first])
    saved(tmp_path / "clear.png", np.zeros((3, 4, 4), np.uint8))
    saved(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    (tmp_path / "text.png").write_text("no picture")
    reasons = {}
    for path in sorted(tmp_path.iterdir()):
        try:
            read_picture(path)
        except DataError as error:
            reasons[path.name] = error.reason
    assert reasons == {
        "clear.png": "transparent_picture",
        "half.png": "damaged_picture",
        "text.png": "damaged_picture",
        "two.tif": "several_pictures",
    }


def test_huge_pictures_are_rejected_before_decoding(tmp_path):
    with pytest.raises(DataError, match="4×3 pixels: expected up to 11") as caught:
        read_picture(saved(tmp_path / "a.png", RAMP), max_pixels=11)
    assert caught.value.reason == "too_large"


def test_greys_of_a_compressed_mask_become_black_and_white(tmp_path):
    mask = np.zeros((60, 60), np.uint8)
    mask[11:40, 13:52] = 255
    pixels = read_picture(saved(tmp_path / "a.jpg", mask, quality=50))[0].array
    assert len(np.unique(pixels)) > 2
    classes, changed = as_mask(pixels, lossy=True)
    assert changed
    np.testing.assert_array_equal(classes[..., 0], mask.T // 255)
    np.testing.assert_array_equal(as_mask(mask, lossy=False)[0], mask // 255)


def test_a_grey_area_is_a_class_and_no_noise(tmp_path):
    mask = np.zeros((60, 60), np.uint8)
    mask[11:40, 13:52] = 255
    mask[44:54, 10:20] = 128
    pixels = read_picture(saved(tmp_path / "a.jpg", mask, quality=70))[0].array
    with pytest.raises(DataError, match="lossy compression changes class numbers"):
        as_mask(pixels, lossy=True)
    for number, grey in enumerate((50, 100, 150, 200)):
        mask[44:48, 4 + 8 * number : 8 + 8 * number] = grey
    assert as_mask(mask, lossy=False) == (pytest.approx(mask), False)
    wide = np.clip(np.arange(60) * 16 - 400, 0, 255).astype(np.uint8)  # a mask that was enlarged 16 times
    assert as_mask(np.concatenate([np.full((540, 60), 255, np.uint8), np.tile(wide, (60, 1))]), lossy=False)[
        1
    ]


def test_class_numbers_are_kept_but_not_from_a_lossy_file():
    classes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert as_mask(classes, lossy=False) == (pytest.approx(classes), False)
    with pytest.raises(DataError, match="lossy compression changes class numbers"):
        as_mask(classes, lossy=True)


def test_a_gif_with_one_picture_is_read(tmp_path):
    pixels, repairs = read_picture(saved(tmp_path / "a.gif", RAMP * 20))
    np.testing.assert_array_equal(pixels.array[..., 0], RAMP.T * 20)
    assert repairs == ()
