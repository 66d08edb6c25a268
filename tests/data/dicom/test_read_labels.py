"""DICOM labels lie on the voxels of their image, and smaller segments stay visible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_maker import stack_of, task_of, write_series
from label_maker import sorted_slices, write_segmentation, write_structures

from medmim.data.dicom.read_labels import read_labels, read_segments
from medmim.data.dicom.uncompressed import convert_raw
from medmim.data.formats.nifti import read_image

SHAPE = (6, 8, 10)  # slices, rows, columns
BOX = np.array([[1.5, 1.5], [6.5, 1.5], [6.5, 5.5], [1.5, 5.5]])  # columns 2 to 6, rows 2 to 5


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A folder with a series, and its volume beside it."""
    paths = write_series(tmp_path / "scan")
    convert_raw(task_of(stack_of(paths), tmp_path))
    return tmp_path / "scan"


def read(scan: Path, file: str, segments: int = 1, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a label as slice × row × column, in the order of the source, and its facts."""
    folder = scan.parent
    facts = read_labels(
        str(folder / file),
        str(folder / "volume.nii.gz"),
        str(folder / "label.nii.gz"),
        numbers={str(number): number for number in range(1, segments + 1)},
        **options,
    )
    if "reason" in facts:
        return np.zeros(SHAPE), facts
    return read_image(folder / "label.nii.gz").array.transpose(2, 1, 0), facts


def mask_of(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for number, box in enumerate(boxes, start=1):
        mask[box] = number
    return mask


@pytest.mark.parametrize(
    ("places", "kind"),
    [
        ([2, 3, 4], "BINARY"),
        ([1, 5], "BINARY"),
        ([4], "BINARY"),
        ([1, 5], "LABELMAP"),
        ([0, 2], "FRACTIONAL"),
    ],
)
@pytest.mark.parametrize("resample", [False, True])
def test_frames_lie_on_their_slices_whatever_slices_are_left_out(
    scan: Path, places: list[int], kind: str, resample: bool
):
    mask = np.zeros(SHAPE, np.uint8)
    mask[places, 2:4, 3:7] = 1
    slices = sorted_slices(scan)
    options = {"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}
    write_segmentation(scan.parent / "seg", slices, mask, names=("a",), kind=kind, **options)
    label, facts = read(scan, "seg", resample=resample)
    np.testing.assert_array_equal(label, mask)
    assert "resampled" not in facts
    assert facts["measured"]["offset_mm"] < 1e-3


def test_label_maps_with_several_segments(scan: Path):
    mask = mask_of((slice(1, 3), slice(2, 4), slice(3, 6)), (slice(3, 5), slice(0, 2), slice(3, 6)))
    write_segmentation(scan.parent / "seg", sorted_slices(scan), mask, names=("a", "b"), kind="LABELMAP")
    label, _ = read(scan, "seg", 2)
    np.testing.assert_array_equal(label, mask)
    found = read_segments(str(scan.parent / "seg"))
    assert found == {"series": ["1.2.3.4"], "segments": [[1, "a", "a"], [2, "b", "b"]]}


@pytest.mark.parametrize("core_first", [True, False])
def test_smaller_segments_stay_visible(scan: Path, core_first: bool):
    whole, core = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    whole[1:5, 1:7, 2:9], core[2:4, 3:5, 4:6] = 1, 1
    channels = [core, whole] if core_first else [whole, core]
    write_segmentation(
        scan.parent / "seg", sorted_slices(scan), np.stack(channels, axis=-1), names=("a", "b")
    )
    label, facts = read(scan, "seg", 2)
    expected = np.where(core, 1 if core_first else 2, whole * (2 if core_first else 1))
    np.testing.assert_array_equal(label, expected)
    assert facts["measured"]["overlap_voxels"] == core.sum()
    assert "hidden_segments" not in facts["measured"]


def test_segments_that_are_hidden_completely_are_counted(scan: Path):
    same = np.zeros(SHAPE, np.uint8)
    same[1:5, 1:7, 2:9] = 1
    write_segmentation(
        scan.parent / "seg", sorted_slices(scan), np.stack([same, same], axis=-1), names=("a", "b")
    )
    assert read(scan, "seg", 2)[1]["measured"]["hidden_segments"] == 1


def test_a_segmentation_with_flipped_rows_and_columns(scan: Path):
    mask = mask_of((slice(1, 4), slice(0, 3), slice(1, 7)))
    slices = sorted_slices(scan)
    for one in slices:
        axes = np.array(one.ImageOrientationPatient, float)
        corner = np.array(one.ImagePositionPatient, float) + axes[:3] * 1.25 * 9 + axes[3:] * 1.5 * 7
        one.ImagePositionPatient = corner.round(6).tolist()
        one.ImageOrientationPatient = (-axes).tolist()
    write_segmentation(scan.parent / "seg", slices, mask[:, ::-1, ::-1], names=("a",))
    np.testing.assert_array_equal(read(scan, "seg")[0], mask)


def test_a_segmentation_on_another_grid_is_refused_or_resampled(scan: Path):
    mask = np.zeros((6, 4, 5), np.uint8)
    mask[[1, 4], 1:3, 1:3] = 1
    slices = sorted_slices(scan)
    for one in slices:
        axes = np.array(one.ImageOrientationPatient, float)
        corner = np.array(one.ImagePositionPatient, float) + axes[:3] * 0.625 + axes[3:] * 0.75
        one.ImagePositionPatient = corner.round(6).tolist()
        one.Rows, one.Columns, one.PixelSpacing = 4, 5, [3.0, 2.5]
    write_segmentation(scan.parent / "seg", slices, mask, names=("a",))
    assert read(scan, "seg")[1]["reason"] == "label_shape"
    label, facts = read(scan, "seg", resample=True)
    assert facts["resampled"]
    np.testing.assert_array_equal(label, np.repeat(np.repeat(mask, 2, axis=1), 2, axis=2))


# structure sets


def test_smaller_regions_stay_visible(scan: Path):
    inner = BOX * 0.4 + [2.4, 2.1]
    for order in (("BODY", "GTV"), ("GTV", "BODY")):
        shapes = {"BODY": BOX, "GTV": inner}
        rois = {name: [(place, shapes[name]) for place in (1, 2, 3)] for name in order}
        write_structures(scan.parent / "rt", sorted_slices(scan), rois)
        label, facts = read(scan, "rt", 2)
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
    label, facts = read(scan, "rt", 2)
    assert (label == 1).sum() == 3 * 20
    assert facts["measured"]["contours_outside"] == 1


@pytest.mark.parametrize(("share", "fits", "fits_resampled"), [(0.2, 1, 1), (0.4, 0, 1), (0.5, 0, 0)])
def test_contours_between_slices_are_measured(scan: Path, share: float, fits: int, fits_resampled: int):
    write_structures(scan.parent / "rt", sorted_slices(scan), {"a": [(2, BOX)]}, off_mm=share * 3.0)
    label, facts = read(scan, "rt")
    assert bool(label.sum()) == fits
    assert facts["measured"]["offset_mm"] == pytest.approx(share * 3.0, abs=1e-3)
    assert facts.get("reason") == (None if fits else "label_offset")
    label, facts = read(scan, "rt", resample=True)
    assert bool(label[2].sum()) == fits_resampled
    assert facts.get("resampled", False) == (share == 0.4)


def test_a_keyhole_contour_leaves_its_hole(scan: Path):
    outer = [[0.5, 0.5], [8.5, 0.5], [8.5, 6.5], [0.5, 6.5], [0.5, 0.5]]
    inner = [[2.5, 2.5], [2.5, 4.5], [5.5, 4.5], [5.5, 2.5], [2.5, 2.5]]
    write_structures(scan.parent / "rt", sorted_slices(scan), {"a": [(2, np.array(outer + inner))]})
    label, _ = read(scan, "rt")
    expected = np.zeros(SHAPE)
    expected[2, 1:7, 1:9] = 1
    expected[2, 3:5, 3:6] = 0
    np.testing.assert_array_equal(label, expected)


def test_series_and_regions_of_a_structure_set(scan: Path):
    write_structures(scan.parent / "rt", sorted_slices(scan), {"GTV": [(2, BOX)], "SENTINEL": []})
    found = read_segments(str(scan.parent / "rt"))
    assert found == {"series": ["1.2.3.4"], "segments": [[1, "GTV", "GTV"], [2, "SENTINEL", ""]]}
