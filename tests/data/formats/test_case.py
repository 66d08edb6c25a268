"""Images and labels are written only if they match; rejections include measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from medmim.data.formats.case import read_case, read_label
from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image
from medmim.errors import DataError

GRID = np.diag([1.0, 1.0, 2.0, 1.0])


def write(path: Path, array: np.ndarray, affine: np.ndarray = GRID) -> str:
    path.write_bytes(encode_image(Image(array, affine)))
    return str(path)


def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (4, 5, 6)).astype(np.int16)


def label() -> np.ndarray:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1, 2, 3], array[2, 2, 3] = 4, 1
    return array


def test_image_and_label(tmp_path: Path):
    image, mask = write(tmp_path / "image.nii.gz", scan()), write(tmp_path / "label.nii.gz", label())
    facts = read_case(image, mask, str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz"))
    assert facts["image"]["shape"] == [4, 5, 6]
    assert facts["image"]["spacing_mm"] == [1.0, 1.0, 2.0]
    assert facts["label"]["values"] == [1, 4]
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").array, label())
    assert read_label(mask, image, str(tmp_path / "c.nii.gz")) == facts["label"]


def test_flipped_label(tmp_path: Path):
    image = write(tmp_path / "image.nii.gz", scan())
    flipped = GRID @ np.array([[-1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    mask = write(tmp_path / "label.nii.gz", label()[::-1], flipped)
    read_label(mask, image, str(tmp_path / "c.nii.gz"))
    np.testing.assert_array_equal(read_image(tmp_path / "c.nii.gz").array, label())


def test_rejected_labels(tmp_path: Path):
    image = write(tmp_path / "image.nii.gz", scan())
    moved = GRID.copy()
    moved[1, 3] = 5.0
    facts = read_label(write(tmp_path / "l.nii.gz", label(), moved), image, str(tmp_path / "c.nii.gz"))
    assert (facts["reason"], facts["measured"]["offset_mm"]) == ("label_offset", 5.0)
    facts = read_label(write(tmp_path / "l.nii.gz", label()[:, :4]), image, str(tmp_path / "c.nii.gz"))
    assert facts["reason"] == "label_shape"
    assert (facts["measured"]["image_1"], facts["measured"]["label_1"]) == (5.0, 4.0)
    halves = write(tmp_path / "l.nii.gz", label().astype(np.float32) / 2)
    facts = read_label(halves, image, str(tmp_path / "c.nii.gz"))
    assert (facts["reason"], facts["measured"]["value_0"]) == ("label_not_integral", 0.5)
    assert not (tmp_path / "c.nii.gz").exists()


def test_rejected_image(tmp_path: Path):
    image = write(tmp_path / "image.nii.gz", np.zeros((4, 5, 6), np.int16))
    with pytest.raises(DataError, match="one value everywhere"):
        read_case(image, None, str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz"))


def test_picture_with_a_mask_picture(tmp_path: Path):
    shown = np.random.default_rng(0).integers(0, 255, (5, 4), dtype=np.uint8)
    mask = np.zeros((5, 4), np.uint8)
    mask[1, 2] = 255
    for name, pixels in (("a.png", shown), ("m.png", mask)):
        PIL.Image.fromarray(pixels).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.png", "m.png", "out.nii.gz", "label.nii.gz")]
    facts = read_case(*paths, boxed=[(1, "mass")], spacing_mm=0.5)
    assert (facts["label"]["values"], facts["boxes"]) == ([1], [])  # one pixel is a speck
    stored = read_image(tmp_path / "label.nii.gz")
    assert (np.argwhere(stored.array).tolist(), stored.spacing_mm) == ([[2, 1, 0]], (0.5, 0.5, 0.5))


def test_labels_are_resampled_on_request_if_they_overlap_the_image(tmp_path: Path):
    coarse = np.diag([2.0, 1.0, 2.0, 1.0])
    coarse[0, 3] = 0.5
    array = np.zeros((2, 5, 6), np.uint8)
    array[1, 2, 3] = 4
    image, other = write(tmp_path / "a.nii", scan()), write(tmp_path / "l.nii", array, coarse)
    write(tmp_path / "stored.nii.gz", scan())
    target = str(tmp_path / "label.nii.gz")
    assert read_label(other, image, target)["reason"] == "label_shape"
    facts = read_label(other, image, target, resample=True)
    assert (facts["resampled"], facts["values"]) == (True, [4])
    assert np.argwhere(read_image(Path(target)).array).tolist() == [[2, 2, 3], [3, 2, 3]]
    far = coarse.copy()
    far[0, 3] = 400
    refused = read_label(write(tmp_path / "far.nii", array, far), image, target, resample=True)
    assert refused["reason"] == "label_outside_image"
