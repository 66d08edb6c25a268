"""Headers contain the allowed values of a file, with contradictions resolved and noted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import make_slice
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medmim.data.dicom.header import header_of, values
from medmim.data.ingest.scan import scan_file


def test_wrong_number_of_values_is_refused():
    dataset = make_slice(0)
    dataset.ImagePositionPatient = [1, 2]
    with pytest.raises(ValueError, match="expected 3 numbers, got 2"):
        header_of(dataset)


def test_slices_share_equal_values():
    one, other = header_of(make_slice(0)), header_of(make_slice(1))
    assert one.series is other.series
    assert one.orientation is other.orientation
    assert one.position != other.position
    moved = one.model_copy(update={"frame": 3})
    assert (moved.frame, header_of(make_slice(0))) == (3, one)


def test_negative_zero_is_zero():
    dataset = make_slice(0)
    dataset.ImageOrientationPatient = [1, -0.0, 0, 0, 1, -0.0]
    assert str(header_of(dataset).orientation) == "(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)"


def test_orientation_that_was_rounded_is_orthonormal():
    dataset = make_slice(0)
    dataset.ImageOrientationPatient = [0.71, 0.70, 0, -0.70, 0.71, 0]
    axes = np.reshape(header_of(dataset).orientation or (), (2, 3))
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(axes, [[0.712, 0.702, 0], [-0.702, 0.712, 0]], atol=1e-3)


def test_zero_slope_is_ignored_and_noted():
    dataset = make_slice(0)
    dataset.RescaleSlope, dataset.RescaleIntercept = 0, 0
    header = header_of(dataset)
    assert (header.slope, header.repairs) == (1.0, ("zero_slope_ignored",))


def test_decimal_commas_are_read_and_noted(tmp_path: Path):
    make_slice(0).save_as(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(content.replace(b"1.5\\1.25", b"1,5\\1,25"))
    header = scan_file(tmp_path / "file").header
    assert header is not None
    assert (header.spacing, header.repairs) == ((1.5, 1.25), ("decimal_comma",))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_values_of_undecoded_elements_equal_those_of_pydicom(syntax):
    texts = {
        "PixelSpacing": ["1.5 ", "-2e-1"],
        "ImageType": ["A", "", "B"],
        "SliceThickness": "",
        "EchoTime": "7",
    }
    whole = pydicom.Dataset()
    whole.Rows, whole.SOPInstanceUID, whole.StudyInstanceUID = 258, "1.2.3", ""
    for keyword, content in texts.items():
        setattr(whole, keyword, content)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, whole, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    raw = read_dataset(io.BytesIO(stream.getvalue()), syntax.is_implicit_VR, syntax.is_little_endian)
    for keyword in ("Rows", "SOPInstanceUID", "StudyInstanceUID", *texts):
        found = values(raw, keyword)
        expected = raw[keyword].value
        expected = list(expected) if isinstance(expected, MultiValue) else [expected]
        assert found == ([] if expected in ([""], [None]) else expected), keyword
