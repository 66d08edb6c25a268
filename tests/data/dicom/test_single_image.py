"""Radiographs, ultrasound and lone slices become pictures whose values mean what the header says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import make_slice
from frames_maker import item, make_picture
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGLSLossless

from medmim.data.dicom import single_image
from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.single_image import convert_picture
from medmim.data.dicom.slices import SingleImage, Slice
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.scan import scan_file

STORAGE = "1.2.840.10008.5.1.4.1.1."
CR, US, SC = STORAGE + "1", STORAGE + "6.1", STORAGE + "7"
GREY = np.random.default_rng(0).integers(0, 4096, (12, 9)).astype(np.uint16)


def picture(
    dataset: FileDataset, tmp_path: Path, frame: int = 0
) -> tuple[np.ndarray, dict[str, Any], SingleImage]:
    dataset.save_as(tmp_path / "file")
    verdicts = stacks_of(
        [Slice(0, tmp_path / "file", one) for one in scan_file(tmp_path / "file").headers], {}
    )
    one = verdicts[frame]
    assert isinstance(one, SingleImage)
    facts = convert_picture(
        str(tmp_path / "file"),
        frame,
        affine=one.affine.tolist(),
        staging=str(tmp_path / "work"),
        target=str(tmp_path / "out.nii.gz"),
    )
    if "reason" in facts:
        return np.zeros(0), facts, one
    image = read_image(tmp_path / "out.nii.gz")
    assert image.array.shape[2] == 1
    return image.array[:, :, 0].T, facts, one


def test_plain_radiograph(tmp_path: Path):
    array, facts, one = picture(
        make_picture(CR, GREY, BitsStored=12, ImagerPixelSpacing=[0.2, 0.1]), tmp_path
    )
    np.testing.assert_array_equal(array, GREY)
    assert facts["shape"] == [9, 12, 1]
    assert facts["spacing_mm"] == [0.1, 0.2, 0.2]
    assert (one.flags, facts["flags"]) == ({}, {})


def test_unknown_spacing_is_said(tmp_path: Path):
    _, facts, one = picture(make_picture(CR, GREY), tmp_path)
    assert one.flags == {"spacing": "unknown"}
    assert facts["orientation"] == "LPS"


@pytest.mark.parametrize(
    "values", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}]
)
def test_dark_is_little_everywhere(tmp_path: Path, values: dict[str, str]):
    array, facts, _ = picture(make_picture(CR, GREY, BitsStored=12, **values), tmp_path)
    np.testing.assert_array_equal(array, 4095 - GREY.astype(int))
    assert facts["flags"] == {"inverted": "monochrome1"}


def test_rescale(tmp_path: Path):
    array, _, _ = picture(make_picture(CR, GREY, RescaleSlope=2, RescaleIntercept=-1024), tmp_path)
    np.testing.assert_array_equal(array, GREY * 2.0 - 1024)


def table(bits: int = 12) -> Any:
    values = (np.arange(4096) ** 2 >> 12).astype(np.uint16)
    return item(LUTDescriptor=[4096, 0, bits], LUTData=values.tobytes(), ModalityLUTType="US")


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables(tmp_path: Path, name: str):
    made = table()
    made["LUTData"].VR = "OW"
    array, _, _ = picture(make_picture(CR, GREY, BitsStored=12, **{name: [made]}), tmp_path)
    np.testing.assert_array_equal(array, GREY.astype(int) ** 2 >> 12)


def test_a_window_clips_nothing(tmp_path: Path):
    array, _, _ = picture(make_picture(CR, GREY, WindowCenter=100, WindowWidth=50), tmp_path)
    np.testing.assert_array_equal(array, GREY)


def test_colour_becomes_grey(tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 255, (12, 9, 3)).astype(np.uint8)
    array, facts, one = picture(make_picture(US, colours), tmp_path)
    assert one.slices[0].header.risky
    assert facts["repairs"] == ["colour_to_grey"]
    np.testing.assert_allclose(array, colours @ np.array([0.299, 0.587, 0.114]), atol=1e-3)
    grey = np.repeat(colours[..., :1], 3, axis=2)
    array, facts, _ = picture(make_picture(US, grey), tmp_path)
    assert facts["repairs"] == []
    np.testing.assert_array_equal(array, grey[..., 0])


def test_spacing_of_ultrasound(tmp_path: Path):
    region = item(
        PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.02, PhysicalDeltaY=0.03
    )
    _, facts, _ = picture(make_picture(US, GREY, SequenceOfUltrasoundRegions=[region]), tmp_path)
    np.testing.assert_allclose(facts["spacing_mm"], [0.2, 0.3, 0.3])


def test_frames_are_pictures(tmp_path: Path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 12, 9)).astype(np.uint8)
    dataset = make_picture(US, frames[0], NumberOfFrames=3, PixelData=frames.tobytes())
    array, _, _ = picture(dataset, tmp_path, frame=2)
    np.testing.assert_array_equal(array, frames[2])


def test_lone_slice_keeps_its_place(tmp_path: Path):
    array, facts, one = picture(make_slice(2), tmp_path)
    np.testing.assert_array_equal(array, make_slice(2).pixel_array)
    np.testing.assert_allclose(facts["spacing_mm"], [1.25, 1.5, 3.0], atol=1e-5)
    lps = make_slice(2).ImagePositionPatient
    np.testing.assert_allclose(one.affine[:3, 3], np.array(lps, float) * [-1, -1, 1])


def test_second_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = make_picture(SC, GREY, BitsStored=12, HighBit=11)
    dataset.compress(JPEGLSLossless)

    def none(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(single_image, "pixel_array", none)
    monkeypatch.setattr(single_image, "has_decoder", lambda _: False)
    array, facts, _ = picture(dataset, tmp_path)
    np.testing.assert_array_equal(array, GREY)
    assert facts["measured"] == {"slices_compared": 0.0}


def test_one_value_everywhere(tmp_path: Path):
    _, facts, _ = picture(make_picture(CR, np.zeros((12, 9), np.uint16)), tmp_path)
    assert facts["reason"] == "constant_image"
