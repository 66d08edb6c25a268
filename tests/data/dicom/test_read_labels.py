"""DICOM labels lie on the voxels of their image, and smaller segments stay visible."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from label_maker import LABEL_SHAPE, read_label, sorted_slices, write_segmentation, write_structures

from medmim.data.dicom.read_labels import read_segments
from medmim.errors import DataError


def mask_of(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(LABEL_SHAPE, np.uint8)
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
    mask = np.zeros(LABEL_SHAPE, np.uint8)
    mask[places, 2:4, 3:7] = 1
    slices = sorted_slices(scan)
    options = {"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}
    write_segmentation(scan.parent / "seg", slices, mask, names=("a",), kind=kind, **options)
    label, facts = read_label(scan, "seg", resample=resample)
    np.testing.assert_array_equal(label, mask)
    assert "resampled" not in facts
    assert facts["measured"]["offset_mm"] < 1e-3


def test_label_maps_with_several_segments(scan: Path):
    mask = mask_of((slice(1, 3), slice(2, 4), slice(3, 6)), (slice(3, 5), slice(0, 2), slice(3, 6)))
    write_segmentation(scan.parent / "seg", sorted_slices(scan), mask, names=("a", "b"), kind="LABELMAP")
    label, _ = read_label(scan, "seg", 2)
    np.testing.assert_array_equal(label, mask)
    found = read_segments(str(scan.parent / "seg"))
    assert found.pop("instances") == []  # needed only where the series is not named
    assert found == {"series": ["1.2.3.4"], "segments": [[1, "a", "a"], [2, "b", "b"]]}


@pytest.mark.parametrize("core_first", [True, False])
def test_smaller_segments_stay_visible(scan: Path, core_first: bool):
    whole, core = np.zeros(LABEL_SHAPE, np.uint8), np.zeros(LABEL_SHAPE, np.uint8)
    whole[1:5, 1:7, 2:9], core[2:4, 3:5, 4:6] = 1, 1
    channels = [core, whole] if core_first else [whole, core]
    write_segmentation(
        scan.parent / "seg", sorted_slices(scan), np.stack(channels, axis=-1), names=("a", "b")
    )
    label, facts = read_label(scan, "seg", 2)
    expected = np.where(core, 1 if core_first else 2, whole * (2 if core_first else 1))
    np.testing.assert_array_equal(label, expected)
    assert facts["measured"]["overlap_voxels"] == core.sum()
    assert "hidden_segments" not in facts["measured"]


def test_segments_that_are_hidden_completely_are_counted(scan: Path):
    same = np.zeros(LABEL_SHAPE, np.uint8)
    same[1:5, 1:7, 2:9] = 1
    write_segmentation(
        scan.parent / "seg", sorted_slices(scan), np.stack([same, same], axis=-1), names=("a", "b")
    )
    assert read_label(scan, "seg", 2)[1]["measured"]["hidden_segments"] == 1


def test_a_segmentation_with_flipped_rows_and_columns(scan: Path):
    mask = mask_of((slice(1, 4), slice(0, 3), slice(1, 7)))
    slices = sorted_slices(scan)
    for one in slices:
        axes = np.array(one.ImageOrientationPatient, float)
        corner = np.array(one.ImagePositionPatient, float) + axes[:3] * 1.25 * 9 + axes[3:] * 1.5 * 7
        one.ImagePositionPatient = corner.round(6).tolist()
        one.ImageOrientationPatient = (-axes).tolist()
    write_segmentation(scan.parent / "seg", slices, mask[:, ::-1, ::-1], names=("a",))
    np.testing.assert_array_equal(read_label(scan, "seg")[0], mask)


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
    assert read_label(scan, "seg")[1]["reason"] == "label_shape"
    label, facts = read_label(scan, "seg", resample=True)
    assert facts["resampled"]
    np.testing.assert_array_equal(label, np.repeat(np.repeat(mask, 2, axis=1), 2, axis=2))


def test_damaged_labels_are_refused_with_a_reason_of_ours(scan: Path):
    slices, chance = sorted_slices(scan), random.Random(0)
    write_segmentation(
        scan.parent / "seg", slices, mask_of((slice(1, 3), slice(2, 4), slice(3, 6))), names=("a",)
    )
    write_structures(scan.parent / "rois", slices, {"a": [(2, np.array([[1, 1], [6, 1], [6, 5]]))]})
    reasons = Counter()
    for name in ("seg", "rois"):
        sound = (scan.parent / name).read_bytes()
        for _ in range(60):
            raw = bytearray(sound)
            for _ in range(chance.randint(1, 12)):
                raw[chance.randrange(132, len(raw))] ^= 1 << chance.randrange(8)
            (scan.parent / "broken").write_bytes(
                raw if chance.random() < 0.7 else raw[: chance.randrange(140, len(raw))]
            )
            try:
                read_segments(str(scan.parent / "broken"))
                reasons[read_label(scan, "broken")[1].get("reason", "")] += 1
            except DataError as error:
                reasons[error.reason] += 1
    assert reasons["damaged"] > 20
