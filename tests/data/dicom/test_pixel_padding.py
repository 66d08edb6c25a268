"""Padding far from all measured values gets the darkest of them; other values stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import groups_of, save_all, stack_of, task_of, write_series
from frames_maker import make_picture
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian

from medmim.data.dicom.convert_single_image import convert_single_image
from medmim.data.dicom.convert_uncompressed import convert_uncompressed
from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.pixel_padding import FILLED, fill_padding, padding_range
from medmim.data.formats.nifti import read_image

CR = "1.2.840.10008.5.1.4.1.1.1"


@pytest.mark.parametrize(
    ("value", "limit", "signed", "expected"),
    [
        ([-2000], [], True, (-2000, -2000)),
        ([63536], [], True, (-2000, -2000)),
        ([-2000], [], False, (63536, 63536)),
        ([-2000], [-1500], True, (-2000, -1500)),
        ([b"\x30\xf8"], [], True, (-2000, -2000)),
        ([0], [], True, None),
        ([], [], True, None),
        (["none"], [], True, None),
    ],
)
def test_ranges_of_padding(value: Any, limit: Any, signed: bool, expected: Any):
    assert padding_range(value, limit, [int(signed)]) == expected


@pytest.mark.parametrize(
    ("padding", "expected"),
    [(-2000, -50), (-60, -60), (9000, -50)],  # far below, next to the others, far above
)
def test_only_padding_beyond_the_other_values_is_filled(padding: int, expected: int):
    values = np.array([[[-50, 100], [900, padding]]], np.int16)
    filled = fill_padding(values, values == padding)
    assert (values[0, 1, 1], filled) == (expected, int(expected != padding))


def test_padding_of_classes_stays():
    values = np.array([[[0, 1], [2, 255]]], np.int16)
    assert fill_padding(values, values == 255) == 0


def padded(dataset: FileDataset, place: int) -> None:
    """Surround a slice with -2000."""
    pixels = np.frombuffer(dataset.PixelData, np.int16).reshape(8, 10).copy()
    pixels[:, :3] = -2000
    dataset.PixelData, dataset.PixelPaddingValue = pixels.tobytes(), -2000
    dataset["PixelPaddingValue"].VR = "SS"


@pytest.mark.parametrize("convert_stack", [convert_uncompressed, convert_with_decoder])
@pytest.mark.parametrize("slope", [1.0, 0.37])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_padding_of_a_stack(convert_stack: Any, slope: float, syntax: Any, tmp_path: Path):
    def tweak(dataset: FileDataset, place: int) -> None:
        padded(dataset, place)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, -10
        dataset.file_meta.TransferSyntaxUID = syntax or dataset.file_meta.TransferSyntaxUID

    task = task_of(stack_of(write_series(tmp_path / "in", tweak=tweak)), tmp_path)
    result = convert_stack(task)
    assert result.repairs == (FILLED,)
    array = read_image(Path(task.target)).array
    assert result.measured[FILLED] == 3 * 8 * array.shape[2]
    measured = array[3:]
    assert array[:3].max() == measured.min() > -2000 * slope


def test_padding_of_a_radiograph_that_is_inverted(tmp_path: Path):
    grey = np.random.default_rng(0).integers(0, 4096, (12, 9)).astype(np.uint16)
    pixels = grey.copy()
    pixels[:, :2] = 60000
    values = {"PixelPaddingValue": 60000, "PhotometricInterpretation": "MONOCHROME1"}
    [group] = groups_of(save_all(tmp_path, [make_picture(CR, pixels, **values)]))
    task = task_of(group, tmp_path)
    result = convert_single_image(task)
    array = read_image(Path(task.target)).array[:, :, 0].T
    assert result.repairs == (FILLED,)
    assert array[:, :2].max() == array[:, 2:].min() == 65535 - int(grey[:, 2:].max())
