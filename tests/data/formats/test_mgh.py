"""FreeSurfer volumes are read as nibabel reads them."""

import nibabel as nib
import numpy as np
import pytest
from nifti_files import rotated, volume

from medmim.data.formats.mgh import read_mgh
from medmim.errors import DataError


def saved(path, array, affine=None):
    nib.save(nib.MGHImage(array, rotated() if affine is None else affine), path)
    return path


@pytest.mark.parametrize("name", ["aseg.mgz", "aseg.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_reading_equals_nibabel(tmp_path, name, dtype):
    path = saved(tmp_path / name, volume(dtype))
    image, theirs = read_mgh(path), nib.load(path)
    assert image.array.dtype == dtype
    np.testing.assert_array_equal(image.array, volume(dtype))
    np.testing.assert_allclose(image.affine, theirs.affine, atol=1e-5)


def test_damaged_and_undefined_volumes_are_rejected(tmp_path):
    content = bytearray(saved(tmp_path / "a.mgh", volume()).read_bytes())
    (tmp_path / "cut.mgh").write_bytes(content[:400])
    (tmp_path / "text.mgh").write_bytes(b"hello" * 100)
    content[28:30] = bytes(2)  # goodRASFlag
    (tmp_path / "nowhere.mgh").write_bytes(content)
    saved(tmp_path / "frames.mgh", volume(shape=(4, 5, 6, 2)))
    for name, match in [
        ("cut.mgh", "ends early"),
        ("text.mgh", "version 1"),
        ("nowhere.mgh", "left and right"),
        ("frames.mgh", "4×5×6×2 voxels: expected 3 axes"),
    ]:
        with pytest.raises(DataError, match=match):
            read_mgh(tmp_path / name)
