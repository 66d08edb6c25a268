"""Vendors' private elements give b-values and the row order of volumes."""

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


def test_standard_b_value_comes_first():
    dataset = make_slice(0)
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 800)
    dataset.DiffusionBValue = 50
    assert header_of(dataset).b_value == 50


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
