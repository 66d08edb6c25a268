"""The form of pixel data is compared with the transfer syntax and with the size that the header calls for."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import make_slice, save_all, stack_of, task_of
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.pixel_data_element import PixelDataElement, missing_pixels, read_element
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.scan import scan_file


def test_element_is_read_and_the_position_kept():
    content = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 4) + b"abcd"
    stream = io.BytesIO(b"head" + content)
    stream.seek(4)
    assert read_element(stream, little=True) == PixelDataElement(16, 4, b"abcd")
    assert stream.tell() == 4


def test_missing_bytes_are_counted():
    found = missing_pixels(io.BytesIO(bytes(100)), PixelDataElement(20, 160, b""), 100, 160)
    assert found == {"expected_bytes": 160.0, "found_bytes": 80.0}


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("defined_length", [True, False])
def test_compressed_pixels_that_are_called_uncompressed_are_refused(
    tmp_path: Path, syntax: str, defined_length: bool
):
    dataset = make_slice(0)
    dataset.Rows, dataset.Columns = 64, 64
    dataset.PixelData = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype("<u2").tobytes()
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if defined_length:
        dataset.PixelData += bytes(64 * 64 * 2)
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = not defined_length
    (path,) = save_all(tmp_path, [dataset])
    assert scan_file(path).reason == "transfer_syntax_mismatch"


def test_uncompressed_pixels_that_are_called_compressed_are_read_and_noted(tmp_path: Path):
    datasets = [make_slice(place) for place in range(4)]
    paths = save_all(tmp_path, datasets)
    for path in paths:
        content = path.read_bytes()
        syntax = ExplicitVRLittleEndian.encode().ljust(20, b"\0")
        assert content.count(syntax) == 1
        path.write_bytes(_with_syntax(content, JPEG2000Lossless))
        assert scan_file(path).header is not None
    stack = stack_of(paths)
    assert stack.repairs == ("transfer_syntax_ignored",)
    task = task_of(stack, tmp_path)
    assert convert_with_decoder(task).measured["slices_uncompressed"] == 4
    array = read_image(Path(task.target)).array
    np.testing.assert_array_equal(array[:, :, 1].T, datasets[1].pixel_array)


def _with_syntax(content: bytes, syntax: str) -> bytes:
    """Replace the transfer syntax of explicit little endian in a file, and the length of its group."""
    old = b"\x02\x00\x10\x00UI\x14\x00" + ExplicitVRLittleEndian.encode().ljust(20, b"\0")
    value = syntax.encode().ljust(len(syntax) + len(syntax) % 2, b"\0")
    new = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(value)) + value
    size = struct.unpack("<I", content[140:144])[0] + len(new) - len(old)
    return (content[:140] + struct.pack("<I", size) + content[144:]).replace(old, new)


def test_pixels_longer_than_needed_are_read(tmp_path: Path):
    def longer(dataset: FileDataset, extra: int) -> FileDataset:
        dataset.PixelData += bytes(extra)
        return dataset

    for extra in (2, 160):
        paths = save_all(tmp_path, [longer(make_slice(place), extra) for place in range(4)])
        task = task_of(stack_of(paths), tmp_path)
        assert convert_with_decoder(task).reason == ""
        np.testing.assert_array_equal(
            read_image(Path(task.target)).array[:, :, 1].T, make_slice(1).pixel_array
        )


def test_fragments_of_compressed_pixels_are_counted(tmp_path: Path):
    dataset = make_slice(0)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([bytes(200)])
    dataset["PixelData"].is_undefined_length = True
    (path,) = save_all(tmp_path, [dataset])
    assert scan_file(path).header is not None
    path.write_bytes(path.read_bytes()[:-60])
    assert scan_file(path).reason == "truncated"
