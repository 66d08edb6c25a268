"""NIfTI files for tests: sound ones, and ones with chosen header bytes."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from medmim.data.formats.nifti import Image, read_image
from medmim.data.formats.write_volume import encode_image
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
    """Write a valid NIfTI-1 file with `content` at `offset` of its header."""
    raw = bytearray(encode_plain(volume() if array is None else array))
    raw[offset : offset + len(content)] = content
    path = tmp_path / "bad.nii"
    path.write_bytes(bytes(raw) + extra)
    return path


def encode_plain(array):
    return gzip.decompress(encode_image(Image(array, rotated())))


def assert_rejected(path, reason, match):
    """Check the reason and that the message is one line without the file name."""
    with pytest.raises(DataError, match=match) as caught:
        read_image(path)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)
    assert path.name not in str(caught.value)
