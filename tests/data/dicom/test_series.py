"""Slices are grouped into whole volumes in the order of their positions; strays cost themselves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import OBLIQUE, make_slice, unit
from pydicom.dataset import FileDataset

from medmim.data.dicom.header import header_of
from medmim.data.dicom.series import group_slices
from medmim.data.dicom.slices import RejectedSlices, SingleImage, Slice, SliceGroup, SliceStack

CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def slices(
    count: int = 6,
    change: Callable[[FileDataset, int], None] | None = None,
    *,
    first: int = 0,
    **options: Any,
) -> list[Slice]:
    """Return slices whose numbers count from `first`."""
    made = []
    for place in range(count):
        dataset = make_slice(place, **options)
        if change is not None:
            change(dataset, place)
        made.append(Slice(first + place, Path(f"{first + place}"), header_of(dataset)))
    return made


def group(given: list[Slice], blocked: dict[str, str] | None = None) -> list[SliceGroup]:
    groups = group_slices(given, blocked or {})
    numbers = sorted(one.number for group in groups for one in group.slices)
    assert numbers == sorted(one.number for one in given), "each slice is in one group"
    return groups


def outcomes(groups: list[SliceGroup]) -> list[tuple[str, int]]:
    names = {SliceStack: "stack", SingleImage: "image"}
    return sorted(
        (one.reason if isinstance(one, RejectedSlices) else names[type(one)], len(one.slices))
        for one in groups
    )


@pytest.mark.parametrize("seed", range(5))
def test_slices_are_ordered_by_position(seed: int):
    given = slices(9)
    np.random.default_rng(seed).shuffle(given)  # type: ignore[arg-type]
    (stack,) = group(given)
    assert isinstance(stack, SliceStack)
    assert [one.number for one in stack.slices] == list(range(9))
    assert stack.shape == (10, 8, 9)
    np.testing.assert_allclose(stack.affine[:3, 3], np.array([20.0, -30.0, 5.0]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(stack.affine[:3, :3], axis=0), [1.25, 1.5, 3.0], atol=1e-5)


def test_lone_slice_is_a_single_image():
    (one,) = group(slices(1))
    assert isinstance(one, SingleImage)
    assert one.flags == {"few_slices": "1"}


def test_two_slices_are_a_volume_with_a_flag():
    (stack,) = group(slices(2))
    assert isinstance(stack, SliceStack)
    assert stack.flags == {"few_slices": "2"}
    np.testing.assert_allclose(np.linalg.norm(stack.affine[:3, 2]), 3.0, atol=1e-5)


def test_two_slices_far_apart_are_single_images():
    assert outcomes(group([slices(9)[0], slices(9)[8]])) == [("image", 1), ("image", 1)]


def test_three_planes_of_one_slice_are_a_localizer():
    planes = [(1, 0, 0, 0, 1, 0), CORONAL, SAGITTAL]
    given = [one for n, plane in enumerate(planes) for one in slices(1, orientation=plane, first=n)]
    groups = group(given)
    assert all(isinstance(one, SingleImage) and one.flags == {"localizer": "by_geometry"} for one in groups)


def test_scout_with_another_orientation_costs_itself():
    groups = group([*slices(5), *slices(1, orientation=SAGITTAL, first=9)])
    assert outcomes(groups) == [("mixed_orientation", 1), ("stack", 5)]
    (stack,) = [one for one in groups if isinstance(one, SliceStack)]
    assert stack.flags == {"rejected_slices": "1"}


def test_slice_that_is_turned_inside_the_stack_leaves_a_gap():
    given = slices(7, lambda d, k: setattr(d, "ImageOrientationPatient", list(SAGITTAL)) if k == 3 else None)
    assert outcomes(group(given)) == [("missing_slice", 6), ("mixed_orientation", 1)]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("Rows", 9, "mixed_shape"), ("PixelSpacing", [1.5, 2.25], "mixed_spacing")],
)
def test_last_slice_of_another_size_or_spacing_costs_itself(name: str, value: Any, reason: str):
    given = slices(6, lambda d, k: setattr(d, name, value) if k == 5 else None)
    assert outcomes(group(given)) == [(reason, 1), ("stack", 5)]


def test_localizer_in_the_series_is_a_single_image():
    def scout(dataset: FileDataset, place: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    groups = group([*slices(6), *slices(1, scout, orientation=CORONAL, first=9)])
    assert outcomes(groups) == [("image", 1), ("stack", 6)]
    assert [one.flags for one in groups if isinstance(one, SliceStack)] == [{}]


def test_derived_stacks_are_flagged():
    (stack,) = group(slices(6, lambda d, _: setattr(d, "ImageType", ["DERIVED", "SECONDARY", "MPR"])))
    assert isinstance(stack, SliceStack)
    assert stack.flags == {"derived": "by_image_type"}


def test_inverted_display_is_flagged_and_values_are_kept():
    (stack,) = group(slices(6, lambda d, _: setattr(d, "PhotometricInterpretation", "MONOCHROME1")))
    assert isinstance(stack, SliceStack)
    assert stack.flags == {"photometric": "monochrome1"}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ImagePositionPatient", None, "missing_geometry"),
        ("PixelSpacing", None, "missing_geometry"),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "bad_geometry"),
        ("PixelSpacing", [0, 1], "bad_geometry"),
    ],
)
@pytest.mark.parametrize(("place", "rest"), [(0, ("stack", 5)), (2, ("missing_slice", 5))])
def test_slice_without_a_position_costs_itself(
    name: str, value: Any, reason: str, place: int, rest: tuple[str, int]
):
    given = slices(6, lambda d, k: setattr(d, name, value) if k == place else None)
    assert outcomes(group(given)) == sorted([(reason, 1), rest])


def test_position_that_is_not_finite():
    given = slices(4)
    header = given[3].header.model_copy(update={"spacing": (float("nan"), 1.0)})
    given[3] = Slice(3, Path("3"), header)
    assert outcomes(group(given)) == [("non_finite_geometry", 1), ("stack", 3)]


def test_blocked_series_is_rejected():
    groups = group(slices(6), {"1.2.3.4": "duplicate_instance"})
    assert outcomes(groups) == [("duplicate_instance", 6)]


def test_planes_of_a_series_are_separate_volumes():
    groups = group([*slices(6), *slices(5, orientation=SAGITTAL, first=20)])
    assert outcomes(groups) == [("stack", 5), ("stack", 6)]


def test_patients_with_one_series_uid_are_separate_volumes():
    groups = group([*slices(6), *slices(6, patient="OTHER", first=10)])
    assert outcomes(groups) == [("stack", 6), ("stack", 6)]


# groups that interleave on one even grid are one volume


def every_second(name: str, value: Any) -> Callable[[FileDataset, int], None]:
    return lambda dataset, place: setattr(dataset, name, value) if place % 2 else None


def rounded(dataset: FileDataset, place: int) -> None:
    if place % 2:
        dataset.ImageOrientationPatient = [round(float(v), 2) for v in dataset.ImageOrientationPatient]


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        (
            every_second("ImageType", ["ORIGINAL", "PRIMARY", "OTHER", "NORM"]),
            {"mixed_values": "image_type"},
        ),
        (every_second("EchoTime", 10.004), {"mixed_values": "echo_time"}),
        (every_second("EchoTime", None), {"mixed_values": "echo_time"}),
        (every_second("BitsStored", 12), {}),
        (rounded, {}),
    ],
)
def test_slight_differences_do_not_split_a_volume(
    change: Callable[[FileDataset, int], None], flags: dict[str, str]
):
    (stack,) = group(slices(8, change))
    assert isinstance(stack, SliceStack)
    assert [one.number for one in stack.slices] == list(range(8))
    assert stack.flags == flags
    np.testing.assert_allclose(np.linalg.norm(stack.affine[:3, 2]), 3.0, atol=1e-4)


def test_one_slice_with_another_image_type_stays_in_its_volume():
    for place in (3, 7):
        given = slices(
            8, lambda d, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "X"]) if k == place else None  # noqa: B023
        )  # fmt: skip
        assert outcomes(group(given)) == [("stack", 8)]


def test_three_groups_that_interleave_are_one_volume():
    given = slices(9, lambda d, k: setattr(d, "EchoTime", 10 + 0.001 * (k % 3)))
    assert outcomes(group(given)) == [("stack", 9)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EchoTime", 80),
        ("DiffusionBValue", 800),
        ("ImageType", ["ORIGINAL", "PRIMARY", "PHASE"]),
    ],
)
def test_groups_of_different_meaning_stay_separate(name: str, value: Any):
    """Even where they interleave: their values cannot be compared. A flag names it."""
    found = group(slices(8, every_second(name, value)))
    assert outcomes(found) == [("stack", 4), ("stack", 4)]
    assert {one.flags.get("interleaved") for one in found} == {"with other values"}


def test_displays_that_are_inverted_for_some_slices_are_rejected():
    found = group(slices(6, every_second("PhotometricInterpretation", "MONOCHROME1")))
    assert outcomes(found) == [("mixed_photometric", 6)]
    assert found[0].measured == {"monochrome1": 3, "slices": 6}


def test_groups_that_lie_next_to_each_other_stay_separate():
    def upper(dataset: FileDataset, place: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", "NORM" if place >= 4 else "ND"]

    assert outcomes(group(slices(8, upper))) == [("stack", 4), ("stack", 4)]


def test_rounded_directions_are_one_direction():
    def noise(dataset: FileDataset, place: int) -> None:
        values = [float(value) for value in dataset.ImageOrientationPatient]
        values[5] += 1e-7 * (place % 2)
        dataset.ImageOrientationPatient = values

    (stack,) = group(slices(6, noise))
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ()
    assert unit(OBLIQUE) == pytest.approx(stack.slices[0].header.orientation, abs=1e-8)
