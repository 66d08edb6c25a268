"""Headers contain the allowed values of a file, from standard or vendors' elements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import make_slice

from medmim.data.dicom.header import header_of
from medmim.data.ingest.scan import scan_file


@pytest.mark.parametrize(
    ("group", "creator", "element", "kind", "value", "expected"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", 800, 800.0),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", [1000000800, 8, 0, 0], 800.0),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 800.0, 800.0),
        (0x0019, "SIEMENS MR HEADER", 0x0C, "UN", b"800 ", 800.0),
        (0x0019, "SIEMENS MR HEADER", 0x0C, "LO", "unknown", None),
        (0x0019, "GEMS_ACQU_01", 0x0C, "IS", 800, None),
    ],
)
def test_b_value_of_a_vendor(
    group: int, creator: str, element: int, kind: str, value: Any, expected: float | None
):
    dataset = make_slice(0)
    dataset.private_block(group, creator, create=True).add_new(element, kind, value)
    assert header_of(dataset).b_value == expected


def test_standard_b_value_comes_first():
    dataset = make_slice(0)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 800)
    dataset.DiffusionBValue = 50
    assert header_of(dataset).b_value == 50


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


@pytest.mark.parametrize(
    ("scheme", "volume", "expected"),
    [(0, 1, False), (1, 1, True), (1, 2, True), (2, 1, True), (2, 2, False), (3, 1, False), (3, 2, True)],
)
def test_ge_volumes_of_reversed_polarity_have_reversed_rows(scheme: int, volume: int, expected: bool):
    dataset = make_slice(0)
    block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    block.add_new(0x9C, "LO", "research/epi_pepolar")
    block.add_new(0xB3, "DS", str(scheme))
    dataset.TemporalPositionIdentifier = volume
    assert header_of(dataset).reversed_rows is expected
    block[0x9C].value = "epi2"
    assert not header_of(dataset).reversed_rows
