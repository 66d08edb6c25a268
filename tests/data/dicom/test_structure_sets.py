"""Contours are filled on the slices of their image; bad contours cost themselves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from label_maker import LABEL_SHAPE, read_label, sorted_slices, write_structures

from medmim.data.dicom.read_labels import read_segments

BOX = np.array([[1.5, 1.5], [6.5, 1.5], [6.5, 5.5], [1.5, 5.5]])  # columns 2 to 6, rows 2 to 5


def test_smaller_regions_stay_visible(scan: Path):
    inner = BOX * 0.4 + [2.4, 2.1]
    for order in (("BODY", "GTV"), ("GTV", "BODY")):
        shapes = {"BODY": BOX, "GTV": inner}
        rois = {name: [(place, shapes[name]) for place in (1, 2, 3)] for name in order}
        write_structures(scan.parent / "rt", sorted_slices(scan), rois)
        label, facts = read_label(scan, "rt", 2)
        gtv = 1 + order.index("GTV")
        assert (label == gtv).sum() == facts["measured"]["overlap_voxels"] > 0
        assert (label > 0).sum() == 3 * 20


def test_contours_outside_the_scan_cost_themselves(scan: Path):
    slices = sorted_slices(scan)
    contours = [(place, BOX) for place in (1, 2, 3)]
    write_structures(scan.parent / "rt", slices, {"a": contours, "b": contours[:1]})
    dataset = pydicom.dcmread(scan.parent / "rt")
    far = dataset.ROIContourSequence[1].ContourSequence[0]
    points = np.reshape(np.array(far.ContourData, float), (-1, 3)) + 500.0
    far.ContourData = points.ravel().round(3).tolist()
    dataset.save_as(scan.parent / "rt")
    label, facts = read_label(scan, "rt", 2)
    assert (label == 1).sum() == 3 * 20
    assert facts["measured"]["contours_outside"] == 1


@pytest.mark.parametrize(("share", "fits", "fits_resampled"), [(0.2, 1, 1), (0.4, 0, 1), (0.5, 0, 0)])
def test_contours_between_slices_are_measured(scan: Path, share: float, fits: int, fits_resampled: int):
    write_structures(scan.parent / "rt", sorted_slices(scan), {"a": [(2, BOX)]}, off_mm=share * 3.0)
    label, facts = read_label(scan, "rt")
    assert bool(label.sum()) == fits
    assert facts["measured"]["offset_mm"] == pytest.approx(share * 3.0, abs=1e-3)
    assert facts.get("reason") == (None if fits else "label_offset")
    label, facts = read_label(scan, "rt", resample=True)
    assert bool(label[2].sum()) == fits_resampled
    assert facts.get("resampled", False) == (share == 0.4)


def test_a_keyhole_contour_leaves_its_hole(scan: Path):
    outer = [[0.5, 0.5], [8.5, 0.5], [8.5, 6.5], [0.5, 6.5], [0.5, 0.5]]
    inner = [[2.5, 2.5], [2.5, 4.5], [5.5, 4.5], [5.5, 2.5], [2.5, 2.5]]
    write_structures(scan.parent / "rt", sorted_slices(scan), {"a": [(2, np.array(outer + inner))]})
    label, _ = read_label(scan, "rt")
    expected = np.zeros(LABEL_SHAPE)
    expected[2, 1:7, 1:9] = 1
    expected[2, 3:5, 3:6] = 0
    np.testing.assert_array_equal(label, expected)


def test_series_and_regions_of_a_structure_set(scan: Path):
    write_structures(scan.parent / "rt", sorted_slices(scan), {"GTV": [(2, BOX)], "SENTINEL": []})
    found = read_segments(str(scan.parent / "rt"))
    assert found.pop("instances") == []  # needed only where the series is not named
    assert found == {"series": ["1.2.3.4"], "segments": [[1, "GTV", "GTV"], [2, "SENTINEL", ""]]}
