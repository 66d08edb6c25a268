"""Slices become stacks in the order of their places; what is not even or not whole is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import OBLIQUE, make_slice, unit
from pydicom.dataset import FileDataset

from medmim.data.dicom.header import header_of
from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.slices import RejectedSlices, SingleImage, Slice, SliceStack, Verdict

NORMAL = np.cross(unit(OBLIQUE)[:3], unit(OBLIQUE)[3:])


def slices(
    count: int = 6, change: Callable[[FileDataset, int], None] | None = None, **options: Any
) -> list[Slice]:
    made = []
    for place in range(count):
        dataset = make_slice(place, **options)
        if change is not None:
            change(dataset, place)
        made.append(Slice(place, Path(f"{place}"), header_of(dataset)))
    return made


def move(dataset: FileDataset, by: np.ndarray) -> None:
    dataset.ImagePositionPatient = [
        float(a) + float(b) for a, b in zip(dataset.ImagePositionPatient, by, strict=True)
    ]


def judge(given: list[Slice], blocked: dict[str, str] | None = None) -> list[Verdict]:
    verdicts = stacks_of(given, blocked or {})
    numbers = sorted(one.number for verdict in verdicts for one in verdict.slices)
    assert numbers == sorted(one.number for one in given), "every slice has exactly one fate"
    return verdicts


def reasons(verdicts: list[Verdict]) -> list[str]:
    return sorted(verdict.reason if isinstance(verdict, RejectedSlices) else "stack" for verdict in verdicts)


@pytest.mark.parametrize("seed", range(5))
def test_order_is_that_of_the_places(seed: int):
    given = slices(9)
    np.random.default_rng(seed).shuffle(given)  # type: ignore[arg-type]
    (stack,) = judge(given)
    assert isinstance(stack, SliceStack)
    assert [one.number for one in stack.slices] == list(range(9))
    assert stack.shape == (10, 8, 9)
    first = given[0].header.position
    assert first is not None
    np.testing.assert_allclose(stack.affine[:3, 3], np.array([20.0, -30.0, 5.0]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(stack.affine[:3, :3], axis=0), [1.25, 1.5, 3.0], atol=1e-5)


def test_missing_slice():
    (verdict,) = judge([one for one in slices(9) if one.number not in (3, 4)])
    assert isinstance(verdict, RejectedSlices)
    assert verdict.reason == "missing_slice"
    assert verdict.measured["missing"] == 2
    assert verdict.measured["gap_mm"] == pytest.approx(9.0, abs=1e-3)


def test_every_second_slice_missing():
    given = [
        one for one in slices(9, lambda d, _: setattr(d, "SpacingBetweenSlices", 3)) if one.number % 2 == 0
    ]
    assert reasons(judge(given)) == ["missing_slice"]


def test_gap_that_the_header_calls_spacing_is_none():
    def half(dataset: FileDataset, _: int) -> None:
        dataset.SpacingBetweenSlices, dataset.SliceThickness = 1.5, 2  # the gap, not the distance of centres

    assert reasons(judge(slices(6, half))) == ["stack"]


def test_two_at_one_place():
    given = [*slices(6), Slice(9, Path("9"), slices(3)[2].header)]
    (verdict,) = judge(given)
    assert isinstance(verdict, RejectedSlices)
    assert (verdict.reason, verdict.measured["duplicates"]) == ("duplicate_position", 1)


def tilted(degrees: float) -> list[Verdict]:
    step = np.array(unit(OBLIQUE)[3:]) * 3 * np.tan(np.radians(degrees))
    return judge(slices(6, lambda d, k: move(d, k * step)))


def test_tilt_is_kept_in_the_grid_and_said():
    (stack,) = tilted(10)
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ("tilt_corrected",)
    sheared = stack.affine[:3, 2] / np.linalg.norm(stack.affine[:3, 2])
    assert np.degrees(np.arccos(abs(sheared @ (NORMAL * [-1, -1, 1])))) == pytest.approx(10.0, abs=0.01)


def test_more_tilt_than_a_gantry_has_is_refused():
    (verdict,) = tilted(50)
    assert isinstance(verdict, RejectedSlices)
    assert verdict.reason == "tilt"
    assert verdict.measured["tilt_degrees"] == pytest.approx(50.0, abs=0.01)


def test_lone_slice_is_a_picture():
    (verdict,) = judge(slices(1))
    assert isinstance(verdict, SingleImage)
    assert verdict.flags == {}


def test_three_planes_of_one_slice_are_a_localiser():
    planes = [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)]
    given = [
        Slice(place, Path("x"), slices(1, orientation=plane)[0].header) for place, plane in enumerate(planes)
    ]
    verdicts = judge(given)
    assert all(isinstance(one, SingleImage) and one.flags == {"localizer": "by_geometry"} for one in verdicts)


def test_slice_of_another_direction_spoils_the_stack():
    turned = Slice(9, Path("9"), slices(1, orientation=(0, 1, 0, 0, 0, -1))[0].header)
    assert reasons(judge([*slices(5), turned])) == ["mixed_orientation"]


def test_derived_stacks_are_flagged():
    (stack,) = judge(slices(6, lambda d, _: setattr(d, "ImageType", ["DERIVED", "SECONDARY", "MPR"])))
    assert isinstance(stack, SliceStack)
    assert stack.flags == {"derived": "by_image_type"}


def test_uneven_spacing_and_offset():
    assert reasons(judge(slices(6, lambda d, k: move(d, NORMAL * (1.0 if k == 3 else 0))))) == [
        "uneven_spacing"
    ]
    sideways = np.array(unit(OBLIQUE)[:3])
    assert reasons(judge(slices(6, lambda d, k: move(d, sideways * (1.0 if k == 3 else 0))))) == [
        "slice_offset"
    ]


def test_a_little_uneven_is_repaired_and_said():
    (stack,) = judge(slices(6, lambda d, k: move(d, NORMAL * (0.45 if k == 3 else 0))))
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ("spacing_evened",)


def test_rounded_directions_are_one_direction():
    def noise(dataset: FileDataset, place: int) -> None:
        values = [float(value) for value in dataset.ImageOrientationPatient]
        values[5] += 1e-7 * (place % 2)
        dataset.ImageOrientationPatient = values

    (stack,) = judge(slices(6, noise))
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ImagePositionPatient", None, "missing_geometry"),
        ("PixelSpacing", None, "missing_geometry"),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "bad_geometry"),
        ("PixelSpacing", [0, 1], "bad_geometry"),
        ("RescaleSlope", 0, "bad_rescale"),
    ],
)
def test_bad_geometry_spoils_the_series(name: str, value: Any, reason: str):
    verdicts = judge(slices(6, lambda d, k: setattr(d, name, value) if k == 2 else None))
    assert reasons(verdicts) == sorted([reason, "damaged_series"])


def test_geometry_that_is_not_finite():
    given = slices(4)
    header = given[1].header.model_copy(update={"spacing": (float("nan"), 1.0)})
    given[1] = Slice(1, Path("1"), header)
    assert reasons(judge(given)) == ["damaged_series", "non_finite_geometry"]


def test_blocked_series():
    assert reasons(judge(slices(6), {"1.2.3.4": "duplicate_instance"})) == ["duplicate_instance"]


def test_too_few():
    (verdict,) = judge(slices(2))
    assert isinstance(verdict, RejectedSlices)
    assert (verdict.reason, verdict.measured) == ("too_few_slices", {"slices": 2.0})


def test_lone_slice_of_another_size_or_spacing():
    assert reasons(judge(slices(6, lambda d, k: setattr(d, "Rows", 8 + (k == 5))))) == ["mixed_shape"]
    assert reasons(judge(slices(6, lambda d, k: setattr(d, "PixelSpacing", [1.5, 1.25 + (k == 5)])))) == [
        "mixed_spacing"
    ]


def test_planes_of_a_localiser_are_judged_apart():
    other = [
        Slice(one.number + 20, one.path, one.header) for one in slices(5, orientation=(0, 1, 0, 0, 0, -1))
    ]
    assert reasons(judge([*slices(6), *other])) == ["stack", "stack"]


@pytest.mark.parametrize(
    "name", ["EchoTime", "DiffusionBValue", "TemporalPositionIdentifier", "AcquisitionNumber"]
)
def test_repeats_are_parted(name: str):
    given = slices(6, lambda d, _: setattr(d, name, 1))
    more = slices(6, lambda d, _: setattr(d, name, 2))
    given += [Slice(one.number + 10, one.path, one.header) for one in more]
    assert reasons(judge(given)) == ["stack", "stack"]


def test_repeats_without_a_difference():
    given = [*slices(6), *(Slice(one.number + 10, one.path, one.header) for one in slices(6))]
    (verdict,) = judge(given)
    assert isinstance(verdict, RejectedSlices)
    assert verdict.reason == "repeats_not_told_apart"
    assert verdict.measured == {"positions": 6.0, "repeats": 2.0}


def test_repeats_that_only_their_numbers_tell_apart():
    given = slices(6, lambda d, k: setattr(d, "InstanceNumber", 2 * k))
    more = slices(6, lambda d, k: setattr(d, "InstanceNumber", 2 * k + 1))
    given += [Slice(one.number + 10, one.path, one.header) for one in more]
    verdicts = judge(given)
    assert [[one.number for one in verdict.slices] for verdict in verdicts] == [
        [0, 1, 2, 3, 4, 5],
        [10, 11, 12, 13, 14, 15],
    ]
    assert all(isinstance(one, SliceStack) and one.repairs == ("repeats_by_number",) for one in verdicts)


def test_acquisitions_of_one_stack_stay_together():
    assert reasons(judge(slices(6, lambda d, k: setattr(d, "AcquisitionNumber", k)))) == ["stack"]


def test_patients_under_one_series_number_are_parted():
    more = [Slice(one.number + 10, one.path, one.header) for one in slices(6, patient="OTHER")]
    assert reasons(judge([*slices(6), *more])) == ["stack", "stack"]
