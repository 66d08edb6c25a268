"""Radiographs, ultrasound and lone slices become images with the values that their headers define."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import groups_of, make_slice, save_all, task_of
from frames_maker import item, make_picture
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGLSLossless

from medmim.data.dicom.conversion_task import ConversionResult
from medmim.data.dicom.convert_single_image import convert_single_image
from medmim.data.dicom.slices import SingleImage
from medmim.data.formats.nifti import read_image

STORAGE = "1.2.840.10008.5.1.4.1.1."
CR, US, SC = STORAGE + "1", STORAGE + "6.1", STORAGE + "7"
GREY = np.random.default_rng(0).integers(0, 4096, (12, 9)).astype(np.uint16)


def convert(
    dataset: FileDataset, folder: Path, frame: int = 0
) -> tuple[np.ndarray, ConversionResult, SingleImage]:
    group = groups_of(save_all(folder, [dataset]))[frame]
    assert isinstance(group, SingleImage)
    task = task_of(group, folder)
    result = convert_single_image(task)
    if result.reason:
        return np.zeros(0), result, group
    image = read_image(Path(task.target))
    assert image.array.shape[2] == 1
    return image.array[:, :, 0].T, result, group


def test_plain_radiograph(tmp_path: Path):
    array, result, group = convert(
        make_picture(CR, GREY, BitsStored=12, ImagerPixelSpacing=[0.2, 0.1]), tmp_path
    )
    np.testing.assert_array_equal(array, GREY)
    assert result.shape == (9, 12, 1)
    assert result.spacing_mm == (0.1, 0.2, 0.2)
    assert (group.flags, result.flags) == ({}, {})


def test_unknown_spacing_is_flagged(tmp_path: Path):
    _, result, group = convert(make_picture(CR, GREY), tmp_path)
    assert group.flags == {"spacing": "unknown"}
    assert result.orientation == "LPS"


@pytest.mark.parametrize(
    "values", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}]
)
def test_inverse_radiographs_are_inverted(tmp_path: Path, values: dict[str, str]):
    array, result, _ = convert(make_picture(CR, GREY, BitsStored=12, **values), tmp_path)
    np.testing.assert_array_equal(array, 4095 - GREY.astype(int))
    assert result.flags == {"inverted": "monochrome1"}


def test_values_of_an_inverse_slice_are_kept_as_in_a_stack(tmp_path: Path):
    dataset = make_slice(0)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    array, _, group = convert(dataset, tmp_path)
    np.testing.assert_array_equal(array, make_slice(0).pixel_array)
    assert group.flags["photometric"] == "monochrome1"


def test_rescale(tmp_path: Path):
    array, _, _ = convert(make_picture(CR, GREY, RescaleSlope=2, RescaleIntercept=-1024), tmp_path)
    np.testing.assert_array_equal(array, GREY * 2.0 - 1024)


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables(tmp_path: Path, name: str):
    values = (np.arange(4096) ** 2 >> 12).astype(np.uint16)
    table = item(LUTDescriptor=[4096, 0, 12], LUTData=values.tobytes(), ModalityLUTType="US")
    table["LUTData"].VR = "OW"
    array, _, _ = convert(make_picture(CR, GREY, BitsStored=12, **{name: [table]}), tmp_path)
    np.testing.assert_array_equal(array, GREY.astype(int) ** 2 >> 12)


def test_a_window_does_not_clip_values(tmp_path: Path):
    array, _, _ = convert(make_picture(CR, GREY, WindowCenter=100, WindowWidth=50), tmp_path)
    np.testing.assert_array_equal(array, GREY)


def test_colour_becomes_grey(tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 255, (12, 9, 3)).astype(np.uint8)
    array, result, group = convert(make_picture(US, colours), tmp_path)
    assert group.slices[0].header.burned_in_risk
    assert result.repairs == ("colour_to_grey",)
    np.testing.assert_allclose(array, colours @ np.array([0.299, 0.587, 0.114]), atol=1e-3)
    grey = np.repeat(colours[..., :1], 3, axis=2)
    array, result, _ = convert(make_picture(US, grey), tmp_path)
    assert result.repairs == ()
    np.testing.assert_array_equal(array, grey[..., 0])


def test_spacing_of_ultrasound(tmp_path: Path):
    region = item(
        PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.02, PhysicalDeltaY=0.03
    )
    _, result, _ = convert(make_picture(US, GREY, SequenceOfUltrasoundRegions=[region]), tmp_path)
    np.testing.assert_allclose(result.spacing_mm, [0.2, 0.3, 0.3])


def test_frames_are_single_images(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 12, 9)).astype(np.uint8)
    dataset = make_picture(US, frames[0], NumberOfFrames=3, PixelData=frames.tobytes())
    array, _, _ = convert(dataset, tmp_path, frame=2)
    np.testing.assert_array_equal(array, frames[2])


def test_lone_slice_keeps_its_position(tmp_path: Path):
    array, result, group = convert(make_slice(2), tmp_path)
    np.testing.assert_array_equal(array, make_slice(2).pixel_array)
    np.testing.assert_allclose(result.spacing_mm, [1.25, 1.5, 3.0], atol=1e-5)
    lps = make_slice(2).ImagePositionPatient
    np.testing.assert_allclose(group.affine[:3, 3], np.array(lps, float) * [-1, -1, 1])


def test_compressed_image(tmp_path: Path):
    dataset: Any = make_picture(SC, GREY, BitsStored=12, HighBit=11)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    array, result, _ = convert(dataset, tmp_path)
    np.testing.assert_array_equal(array, GREY)
    assert result.measured == {"slices_compared": 1.0}


def test_constant_images_are_refused(tmp_path: Path):
    _, result, _ = convert(make_picture(CR, np.zeros((12, 9), np.uint16)), tmp_path)
    assert result.reason == "constant_image"
