"""Uneven stacks get an even grid, reversed rows their order."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import OBLIQUE, make_slice, move, save_all, stack_of, task_of, unit
from pydicom.dataset import FileDataset

from medmim.data.dicom.conversion_task import ConversionTask
from medmim.data.dicom.convert_uncompressed import convert_uncompressed

NORMAL = np.cross(unit(OBLIQUE)[:3], unit(OBLIQUE)[3:])


def ramp(places: list[float]) -> list[FileDataset]:
    """Return slices 3 mm times `places` apart whose values are ten times their place."""
    made = []
    for number, place in enumerate(places):
        dataset = make_slice(number)
        move(dataset, NORMAL * 3.0 * (place - number))
        pixels = np.full((8, 10), 10 * place) + np.arange(10)
        dataset.PixelData = pixels.astype("<i2").tobytes()
        made.append(dataset)
    return made


def uneven_task(tmp_path: Path, **update: object) -> ConversionTask:
    paths = save_all(tmp_path / "in", ramp([0, 1, 2, 3, 4, 6, 8, 10, 12]))
    return task_of(stack_of(paths, uneven=True), tmp_path, **update)


def test_uneven_slices_are_interpolated_on_an_even_grid(tmp_path: Path):
    result = convert_uncompressed(uneven_task(tmp_path, regrid=True))
    assert result.shape == (10, 8, 13)
    assert result.measured["regridded_slices"] == 13
    image = nib.load(tmp_path / "volume.nii.gz")
    expected = 10 * np.arange(13)[None, None, :] + np.arange(10)[:, None, None]
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), np.broadcast_to(expected, (10, 8, 13)))
    np.testing.assert_allclose(np.linalg.norm(image.affine[:3, :3], axis=0), [1.25, 1.5, 3.0], atol=1e-4)


def test_uneven_slices_are_kept_with_their_mean_spacing(tmp_path: Path):
    result = convert_uncompressed(uneven_task(tmp_path))
    assert result.shape == (10, 8, 9)
    assert result.spacing_mm[2] == pytest.approx(36.0 / 8, abs=1e-3)


def test_reversed_rows_are_turned_back(tmp_path: Path):
    paths = save_all(tmp_path / "in", [make_slice(place) for place in range(4)])
    convert_uncompressed(task_of(stack_of(paths), tmp_path, reversed_rows=True))
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    np.testing.assert_array_equal(array[:, :, 2].T, make_slice(2).pixel_array[::-1])
