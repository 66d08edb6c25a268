"""The diffusion weighting is found where each vendor keeps it; other numbers are read as they stand."""

from __future__ import annotations

from typing import Any

import pytest
from dicom_maker import make_slice

from medmim.data.dicom.header import header_of


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


def test_b_value_of_the_standard_comes_first():
    dataset = make_slice(0)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 800)
    dataset.DiffusionBValue = 50
    assert header_of(dataset).b_value == 50


def test_another_count_of_numbers_is_refused():
    dataset = make_slice(0)
    dataset.ImagePositionPatient = [1, 2]
    with pytest.raises(ValueError, match="another count"):
        header_of(dataset)


def test_slices_share_what_is_the_same():
    one, other = header_of(make_slice(0)), header_of(make_slice(1))
    assert one.series is other.series
    assert one.orientation is other.orientation
    assert one.position != other.position
    moved = one.model_copy(update={"frame": 3})
    assert (moved.frame, header_of(make_slice(0))) == (3, one)


def test_there_is_one_zero():
    dataset = make_slice(0)
    dataset.ImageOrientationPatient = [1, -0.0, 0, 0, 1, -0.0]
    assert str(header_of(dataset).orientation) == "(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)"
