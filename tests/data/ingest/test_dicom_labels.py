"""Equally named segments of DICOM labels are one class; labels without a series follow their images."""

import numpy as np
import pydicom
import pytest
from dicom_maker import write_series
from inline_context import make_context
from label_maker import LABEL_SHAPE, sorted_slices, write_segmentation

from medmim.data.ingest.dicom_labels import read_objects


@pytest.fixture
def labels(tmp_path):
    """Two segmentations of one series."""
    write_series(tmp_path / "img")
    mask = np.zeros(LABEL_SHAPE, np.uint8)
    mask[2, 2:5, 3:7] = 1
    mask[3, 2:5, 3:7] = 2
    for number, names in enumerate((("liver", "lesion"), ("lesion", "spleen"))):
        write_segmentation(tmp_path / f"{number}.dcm", sorted_slices(tmp_path / "img"), mask, names=names)
    return {number: tmp_path / f"{number}.dcm" for number in (0, 1)}


def test_equal_names_are_one_class(labels, tmp_path):
    found = read_objects(make_context(tmp_path, files=2), labels, {})
    assert [one.series for one in found.values()] == ["1.2.3.4", "1.2.3.4"]
    assert [one.numbers for one in found.values()] == [{"1": 1, "2": 2}, {"1": 2, "2": 3}]
    assert found[1].names == {2: "lesion", 3: "spleen"}


def test_a_label_without_a_series_is_found_by_its_images(labels, tmp_path):
    dataset = pydicom.dcmread(labels[0])
    del dataset.ReferencedSeriesSequence
    dataset.save_as(labels[0])
    series_of = {one.SOPInstanceUID: one.SeriesInstanceUID for one in sorted_slices(tmp_path / "img")}
    assert read_objects(make_context(tmp_path), {0: labels[0]}, series_of)[0].series == "1.2.3.4"
    context = make_context(tmp_path)
    assert read_objects(context, {0: labels[0]}, {}) == {}
    assert [row.reason for row in context.ledger.rows()] == ["label_series_unclear"]
