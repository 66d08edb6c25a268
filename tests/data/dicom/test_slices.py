"""Slices are grouped by equal or nearly equal values, in the order of first occurrence."""

import numpy as np
import pytest
from dicom_maker import scan_slices, write_series

from medmim.data.dicom.slices import group_by, group_near, heights_of, position_and_steps, reject, unit_flag


@pytest.fixture
def slices(tmp_path):
    return sorted(scan_slices(write_series(tmp_path, count=4)), key=lambda one: one.header.instance)


def test_slices_are_grouped_by_equal_and_by_near_values(slices):
    groups = group_by(slices, lambda one: int(one.header.instance[-1]) % 2)
    assert [[one.header.instance[-1] for one in group] for group in groups] == [["1", "3"], ["2", "4"]]
    values = dict(zip(map(id, slices), (1.0, 1.04, 5.0, 1.2), strict=True))
    assert [len(group) for group in group_near(slices, lambda one: [values[id(one)]], 0.1)] == [2, 1, 1]


def test_heights_and_places_are_in_mm(slices):
    np.testing.assert_allclose(np.diff(heights_of(slices)), 3.0, atol=1e-4)
    place = position_and_steps(slices[0].header)
    assert np.linalg.norm(place[3:6]) == pytest.approx(1.25)
    assert np.linalg.norm(place[6:9]) == pytest.approx(1.5)


def test_rejected_slices_keep_their_numbers(slices):
    found = reject(slices, "missing_slice", gaps=1)
    assert (len(found.slices), found.reason, found.measured) == (4, "missing_slice", {"gaps": 1.0})


@pytest.mark.parametrize(
    ("modality", "units", "flag"),
    [
        ("PT", ["BQML"] * 4, {"unit": "bqml"}),
        ("PT", ["BQML", "GML", "", "BQML"], {"unit": "bqml gml"}),
        ("CT", ["HU", "HU", "", "HU"], {}),
        ("CT", ["Z_EFF"] * 4, {"unit": "z_eff"}),
        ("MR", ["PCT"] * 4, {}),
    ],
)
def test_units_other_than_hounsfield_are_a_flag(slices, modality, units, flag):
    pairs = zip(slices, units, strict=True)
    headers = [one.header.model_copy(update={"modality": modality, "unit": unit}) for one, unit in pairs]
    assert unit_flag(headers) == flag
