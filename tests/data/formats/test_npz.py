"""Arrays of a MedMNIST file become volumes; object arrays and damaged files are rejected."""

import zipfile

import numpy as np
import pytest

from medmim.data.formats.nifti import read_image
from medmim.data.formats.npz import count_arrays, read_arrays
from medmim.data.formats.plain_arrays import read_plain_array
from medmim.errors import DataError


@pytest.fixture
def medmnist(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (3, 8, 6), dtype=np.uint8)
    values[2] = 7
    path = tmp_path / "mnist.npz"
    np.savez(path, train_images=values, train_labels=np.array([[0], [2], [1]]), test_images=values[:1])
    return path, values


def test_images_are_counted_and_read(tmp_path, medmnist):
    path, values = medmnist
    assert count_arrays(str(path)) == {"train": 3, "test": 1}
    found = read_arrays(str(path), "train", 1, [str(tmp_path / f"{name}.nii.gz") for name in "bc"])
    assert (found[0]["class"], found[0]["shape"], found[0]["repairs"]) == (2, [6, 8, 1], [])
    assert found[1] == {"reason": "constant_image"}
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").array[..., 0].T, values[1])


def test_object_arrays_and_damage_are_rejected(tmp_path, medmnist):
    np.savez(tmp_path / "code.npz", train_images=np.array([{}, {}], object))
    with pytest.raises(DataError, match="expected numbers"):
        count_arrays(str(tmp_path / "code.npz"))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(DataError, match="expected train_images"):
        count_arrays(str(tmp_path / "other.npz"))
    (tmp_path / "cut.npz").write_bytes(medmnist[0].read_bytes()[:100])
    with pytest.raises(DataError, match="array file is damaged"):
        count_arrays(str(tmp_path / "cut.npz"))


def test_random_damage_is_reported_as_data_errors(tmp_path, medmnist):
    content, chance = medmnist[0].read_bytes(), np.random.default_rng(0)
    reasons = set()
    for number in range(150):
        damaged = bytearray(content)
        for place in chance.integers(0, len(damaged), 4) if number % 2 else chance.integers(0, 190, 3):
            damaged[place] = chance.integers(0, 256)
        (tmp_path / "damaged.npz").write_bytes(damaged)
        try:
            for part, count in count_arrays(str(tmp_path / "damaged.npz")).items():
                read_arrays(
                    str(tmp_path / "damaged.npz"), part, 0, [str(tmp_path / "out.nii.gz")] * min(count, 1)
                )
        except DataError as error:
            reasons.add(error.reason)
    assert "damaged" in reasons


@pytest.mark.parametrize("shape", ["(2000000000, 28, 28)", "(2000000000,)", "(2000000000, 0, 0)"])
def test_arrays_that_declare_more_than_they_contain_are_rejected(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("train_images.npy", content + b"abc")
    with pytest.raises(DataError, match="array file"):
        count_arrays(str(tmp_path / "bomb.npz"))


@pytest.mark.parametrize(
    "shape",
    [
        "(-1,)",
        "(-2, -3)",
        "(-1, 28, 28)",
        "(0, 5)",
        "(True, 4)",
        "(9999999999999999999, 2)",
        "(1,) * 9",
        "(1e9,)",
    ],
)
@pytest.mark.parametrize("dtype", ["'|u1'", "'|O'", "[('a', '<f4', (3,))]"])
def test_headers_that_no_array_has_are_rejected_before_any_byte_is_read(tmp_path, shape, dtype):
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    (tmp_path / "scan.npy").write_bytes(content + bytes(64))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train_images.npy", content + bytes(64))
    with pytest.raises(DataError, match="array file"):
        read_plain_array(tmp_path / "scan.npy")
    with pytest.raises(DataError, match="array file"):
        count_arrays(str(tmp_path / "a.npz"))
