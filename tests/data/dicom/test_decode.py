"""Decoders give the stored values; contradicting numbers of bits are resolved by the values, or refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom.data
import pytest
from dicom_maker import make_slice, save_all, stack_of, task_of
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless

from medmim.data.dicom.convert_uncompressed import convert_uncompressed
from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.decode import Reader, decode_frame, packing_fault, read_pixels
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.scan import scan_file
from medmim.errors import DataError


def with_bits(stored: int, high: int, values: np.ndarray, signed: int = 0) -> list[FileDataset]:
    made = [make_slice(place) for place in range(4)]
    for place, dataset in enumerate(made):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = stored, high, signed
        dataset.PixelData = (values + place).astype("<i2" if signed else "<u2").tobytes()
    return made


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (16, 11), (12, 12)])
@pytest.mark.parametrize("signed", [0, 1])
def test_values_that_fit_both_numbers_of_bits_are_read(tmp_path: Path, stored: int, high: int, signed: int):
    values = np.arange(80).reshape(8, 10) * 20 - 900 * signed
    paths = save_all(tmp_path, with_bits(stored, high, values, signed))
    task = task_of(stack_of(paths), tmp_path)
    assert convert_with_decoder(task).reason == ""
    np.testing.assert_array_equal(read_image(Path(task.target)).array[:, :, 1].T, values + 1)


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (16, 11)])
def test_values_that_need_more_bits_than_one_number_are_refused(tmp_path: Path, stored: int, high: int):
    """As left-aligned values of 12 bits, or an overlay in the upper bits, would be."""
    paths = save_all(tmp_path, with_bits(stored, high, np.arange(80).reshape(8, 10) * 16 * 40))
    assert convert_with_decoder(task_of(stack_of(paths), tmp_path)).reason == "high_bit_contradiction"


@pytest.mark.parametrize("fault", ["", "bits_stored_contradiction"])
def test_values_beyond_bits_stored_are_refused_and_overlays_are_cleared(tmp_path: Path, fault: str):
    smooth = np.add.outer(np.arange(8) * 300, np.arange(10) * 300)
    if not fault:
        smooth = smooth % 4096 // 4
        smooth[2, 3:7] |= 0x1000  # a line of an overlay
    paths = save_all(tmp_path, with_bits(12, 11, smooth))
    task = task_of(stack_of(paths), tmp_path)
    assert convert_uncompressed(task).reason == fault
    if not fault:
        np.testing.assert_array_equal(read_image(Path(task.target)).array[:, :, 0].T, smooth & 0x0FFF)


def test_unused_bits_of_signed_values_are_ignored(tmp_path: Path):
    """Values of 12 bits whose sign is not extended to all 16."""
    values = np.arange(80).reshape(8, 10) * 20 - 900
    paths = save_all(tmp_path, with_bits(12, 11, values & 0x0FFF, 0))
    datasets = [pydicom.dcmread(path) for path in paths]
    for dataset in datasets:
        dataset.PixelRepresentation = 1
    task = task_of(stack_of(save_all(tmp_path, datasets)), tmp_path)
    assert convert_uncompressed(task).reason == ""
    np.testing.assert_array_equal(read_image(Path(task.target)).array[:, :, 0].T, values)


def test_twelve_bit_jpeg_is_decoded():
    path = Path(pydicom.data.__file__).parent / "test_files" / "JPGExtended.dcm"
    pixels = decode_frame(read_pixels(str(path)), 0)
    assert pixels is not None
    assert (pixels.shape, pixels.dtype, pixels.max()) == ((1024, 256), np.uint16, 264)


def test_damaged_pixels_are_named(tmp_path: Path):
    dataset = make_slice(0)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.PixelData = encapsulate([bytes(200)])
    (path,) = save_all(tmp_path, [dataset])
    with pytest.raises(DataError, match="pixels cannot be decoded"):
        Reader("slice").decode(str(path), 0, (8, 10))


def test_lossy_compression_may_differ_between_decoders(tmp_path: Path):
    dataset: Any = make_slice(0)
    stream = io.BytesIO()
    PIL.Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save(stream, "JPEG", quality=95)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    (path,) = save_all(tmp_path, [dataset])
    found = Reader("slice").decode(str(path), 0, (8, 10))
    assert found is not None
    assert found[1] == 2.0
    with pytest.raises(DataError, match="slice: expected 10×8 pixels as in its header, got 8×10; export"):
        Reader("slice").decode(str(path), 0, (10, 8))


def test_unknown_transfer_syntax_is_named(tmp_path: Path):
    assert packing_fault("1.2.3.4") == "unknown_syntax"
    assert packing_fault("") is None
    (path,) = save_all(tmp_path, [make_slice(0)])
    assert scan_file(path).fate is None


def test_twelve_bit_jpeg_needs_simpleitk(monkeypatch: pytest.MonkeyPatch):
    path = pydicom.data.get_testdata_file("JPEG-lossy.dcm", download=False)
    dataset = read_pixels(str(path))
    pixels = decode_frame(dataset, 0)
    assert pixels is not None
    assert pixels.shape == (1024, 256)
    assert pixels.max() > 255
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert decode_frame(dataset, 0) is None
