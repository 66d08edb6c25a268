"""Stacks are even within small tolerances; gaps, shifts and changing steps are measured and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import OBLIQUE, make_slice, move, unit
from pydicom.dataset import FileDataset

from medmim.data.dicom.header import header_of
from medmim.data.dicom.slice_spacing import classify_stack
from medmim.data.dicom.slices import RejectedSlices, Slice, SliceStack

NORMAL = np.cross(unit(OBLIQUE)[:3], unit(OBLIQUE)[3:])
SIDEWAYS = np.array(unit(OBLIQUE)[:3])


def classify(
    change: Callable[[FileDataset, int], None] | None = None,
    places: range | list[int] = range(6),
    **options: bool,
) -> SliceStack | RejectedSlices:
    made = []
    for place in places:
        dataset = make_slice(place)
        if change is not None:
            change(dataset, place)
        made.append(Slice(place, Path(f"{place}"), header_of(dataset)))
    return classify_stack(made, **options)


def test_missing_slices_are_counted():
    found = classify(places=[0, 1, 2, 5, 6, 7, 8])
    assert isinstance(found, RejectedSlices)
    assert (found.reason, found.measured["missing"]) == ("missing_slice", 2)
    assert found.measured["gap_mm"] == pytest.approx(9.0, abs=1e-3)


def test_every_second_slice_is_missing():
    found = classify(lambda d, _: setattr(d, "SpacingBetweenSlices", 3), [0, 2, 4, 6, 8])
    assert isinstance(found, RejectedSlices)
    assert found.reason == "missing_slice"


def test_spacing_that_is_smaller_than_the_thickness_is_the_gap_between_slices():
    def half(dataset: FileDataset, _: int) -> None:
        dataset.SpacingBetweenSlices, dataset.SliceThickness = 1.5, 2

    assert isinstance(classify(half), SliceStack)


def tilted(degrees: float) -> SliceStack | RejectedSlices:
    step = np.array(unit(OBLIQUE)[3:]) * 3 * np.tan(np.radians(degrees))
    return classify(lambda d, k: move(d, k * step))


def test_tilt_is_kept_in_the_grid_and_noted():
    stack = tilted(10)
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ("tilt_corrected",)
    sheared = stack.affine[:3, 2] / np.linalg.norm(stack.affine[:3, 2])
    assert np.degrees(np.arccos(abs(sheared @ (NORMAL * [-1, -1, 1])))) == pytest.approx(10.0, abs=0.01)


def test_more_tilt_than_a_gantry_allows_is_rejected():
    found = tilted(50)
    assert isinstance(found, RejectedSlices)
    assert (found.reason, found.measured["tilt_degrees"]) == ("tilt", pytest.approx(50.0, abs=0.01))


@pytest.mark.parametrize(("shift", "reason"), [(NORMAL, "uneven_spacing"), (SIDEWAYS, "slice_offset")])
def test_a_slice_that_is_off_the_grid_is_rejected(shift: np.ndarray, reason: str):
    found = classify(lambda d, k: move(d, shift * (k == 3)))
    assert isinstance(found, RejectedSlices)
    assert found.reason == reason


def test_a_small_unevenness_is_repaired_and_noted():
    stack = classify(lambda d, k: move(d, NORMAL * (0.45 if k == 3 else 0)))
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ("spacing_evened",)


@pytest.mark.parametrize("change_at", [3, 6])
def test_a_changing_step_is_no_missing_slice(change_at: int):
    def wider(dataset: FileDataset, place: int) -> None:
        move(dataset, NORMAL * 3.0 * max(0, place - change_at))

    found = classify(wider, range(11))
    assert isinstance(found, RejectedSlices)
    assert found.reason == "uneven_spacing"
    stack = classify(wider, range(11), uneven=True)
    assert isinstance(stack, SliceStack)
    expected = [3.0 * place + 3.0 * max(0, place - change_at) for place in range(11)]
    np.testing.assert_allclose(stack.heights_mm, expected, atol=1e-4)


def test_orientations_that_were_rounded_differently_are_evened():
    def large(dataset: FileDataset, place: int) -> None:
        dataset.Rows, dataset.Columns = 400, 500
        if place % 2:
            dataset.ImageOrientationPatient = [round(float(v), 2) for v in dataset.ImageOrientationPatient]

    stack = classify(large)
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ("orientation_evened",)
