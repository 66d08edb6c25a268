"""Repeated positions are separated into the volumes that were scanned, or rejected.

The pixels of every slice name its position and time, so that a mixture cannot pass for a volume.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_maker import groups_of, make_slice, save_all
from pydicom.dataset import FileDataset

from medmim.data.dicom.slices import RejectedSlices, SliceGroup, SliceStack

PLACES, TIMES = 9, 3
Tweak = Callable[[FileDataset, int, int], None]


def series(
    tweak: Tweak, *, by_place: bool = False, lengths: tuple[int, ...] = (PLACES,) * TIMES
) -> list[FileDataset]:
    """Return slices of several times; instance numbers count time after time, or place after place."""
    made = []
    for time, length in enumerate(lengths):
        for place in range(length):
            dataset = make_slice(place)
            del dataset.AcquisitionNumber
            dataset.SOPInstanceUID = f"1.2.3.4.{time}.{place}"
            dataset.InstanceNumber = 1 + (place * TIMES + time if by_place else time * PLACES + place)
            tweak(dataset, place, time)
            made.append(dataset)
    return made


def check_volumes(
    groups: list[SliceGroup], made: list[FileDataset], lengths: tuple[int, ...] = (PLACES,) * TIMES
) -> None:
    """Each group must be one time, with all its positions in order."""
    found = []
    for group in groups:
        assert isinstance(group, SliceStack), group
        parts = [made[one.number].SOPInstanceUID.split(".")[-2:] for one in group.slices]
        assert len({time for time, _ in parts}) == 1
        assert [int(place) for _, place in parts] == list(range(len(parts)))
        found.append(len(parts))
    assert sorted(found) == sorted(lengths)


def trigger(value: Callable[[int, int], float]) -> Tweak:
    def tweak(dataset: FileDataset, place: int, time: int) -> None:
        dataset.TriggerTime = value(place, time)

    return tweak


def ge_part(dataset: FileDataset, place: int, time: int) -> None:
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x2F, "SS", time)


def ge_b_value(dataset: FileDataset, place: int, time: int) -> None:
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", [1_000_000_000 + (0, 500, 1000)[time], 8, 0, 0])


def philips_time(dataset: FileDataset, place: int, time: int) -> None:
    dataset.TemporalPositionIdentifier = time + 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1.5 + time, -2  # a scale for each volume
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", 0.013)  # the private scale is another one


def attribute(name: str, *values: object) -> Tweak:
    return lambda dataset, place, time: setattr(dataset, name, values[time])


CASES: dict[str, tuple[Tweak, bool]] = {
    "GE, a trigger time per volume": (trigger(lambda place, time: 1000.0 * time), False),
    "GE, a trigger time per slice": (trigger(lambda place, time: 1000.0 * time + 37.0 * place), False),
    "GE, a trigger time per slice, numbered by place": (
        trigger(lambda place, time: 999.0 * time + place),
        True,
    ),
    "GE, three slices at once": (trigger(lambda place, time: 1000.0 * time + 37.0 * (place % 3)), False),
    "GE, equal trigger times": (trigger(lambda place, time: 37.0 * (place % 3)), False),
    "GE, parts of complex values": (ge_part, True),
    "GE, b-values in a private element": (ge_b_value, False),
    "Philips, scales": (philips_time, True),
    "echoes": (attribute("EchoTime", 10, 20, 30), True),
    "kernels": (attribute("ConvolutionKernel", "B30f", "B60f", ["B45f", "3"]), True),
    "tube voltages": (attribute("KVP", 80, 100, 140), True),
    "acquisitions": (attribute("AcquisitionNumber", 1, 2, 3), True),
    "acquisition times": (attribute("AcquisitionTime", "101010", "101110", "101210"), True),
    "Canon, only numbers": (lambda dataset, place, time: None, False),
}


@pytest.mark.parametrize("name", CASES)
def test_volumes_of_a_series_are_separated(tmp_path: Path, name: str):
    tweak, by_place = CASES[name]
    made = series(tweak, by_place=by_place)
    check_volumes(groups_of(save_all(tmp_path, made)), made)


@pytest.mark.parametrize("name", ["AcquisitionNumber", "TemporalPositionIdentifier", "ConvolutionKernel", ""])
def test_phases_of_different_length_are_separated(tmp_path: Path, name: str):
    lengths = (9, 9, 6)
    tweak = attribute(name, "1", "2", "3") if name else CASES["Canon, only numbers"][0]
    made = series(tweak, lengths=lengths)
    groups = groups_of(save_all(tmp_path, made))
    check_volumes(groups, made, lengths)
    noted = [(one.flags, one.repairs) for one in groups if isinstance(one, SliceStack)]
    expected = ({"unequal_repeats": "yes"}, ()) if name else ({}, ("repeats_by_number",))
    assert noted == [expected] * 3


def test_slabs_that_overlap_are_two_volumes(tmp_path: Path):
    made = [make_slice(place) for place in (*range(6), *range(4, 10))]
    for number, dataset in enumerate(made):
        dataset.AcquisitionNumber = 1 + number // 6
        dataset.SOPInstanceUID = f"1.2.3.4.9.{number}"
    groups = groups_of(save_all(tmp_path, made))
    assert [len(one.slices) for one in groups if isinstance(one, SliceStack)] == [6, 6]


def test_phase_is_separated_from_magnitude(tmp_path: Path):
    made = series(ge_part)
    kinds = {one.slices[0].header.image_type[3:] for one in groups_of(save_all(tmp_path, made))}
    assert kinds == {(), ("PHASE",), ("REAL",)}


def test_volume_with_a_missing_slice_costs_itself(tmp_path: Path):
    made = series(trigger(lambda place, time: 1000.0 * time + 37.0 * place))
    del made[4]
    groups = groups_of(save_all(tmp_path, made))
    (rejected,) = [one for one in groups if isinstance(one, RejectedSlices)]
    assert (rejected.reason, len(rejected.slices)) == ("missing_slice", PLACES - 1)
    check_volumes([one for one in groups if one is not rejected], made, (PLACES,) * (TIMES - 1))


def test_two_slices_at_one_position_are_rejected(tmp_path: Path):
    made = [make_slice(place) for place in (*range(6), 2)]
    made[-1].SOPInstanceUID = "1.2.3.4.9"
    (group,) = groups_of(save_all(tmp_path, made))
    assert isinstance(group, RejectedSlices)
    assert (group.reason, group.measured["duplicates"]) == ("duplicate_position", 1)


def test_repeats_without_numbers_are_rejected(tmp_path: Path):
    made = series(lambda dataset, place, time: delattr(dataset, "InstanceNumber"))
    (group,) = groups_of(save_all(tmp_path, made))
    assert isinstance(group, RejectedSlices)
    assert (group.reason, group.measured) == ("repeats_not_told_apart", {"positions": 9, "repeats": 3})


def test_repeats_are_not_numbered_before_their_pixels_are_compared(tmp_path: Path):
    (group,) = groups_of(save_all(tmp_path, series(lambda *_: None)), compared=False)
    assert isinstance(group, RejectedSlices)
    assert group.reason == "duplicate_position"


def test_acquisitions_of_one_stack_stay_together(tmp_path: Path):
    made = [make_slice(place) for place in range(6)]
    for place, dataset in enumerate(made):
        dataset.AcquisitionNumber = place
    (group,) = groups_of(save_all(tmp_path, made))
    assert isinstance(group, SliceStack)


def rescaled(missing: set[int], slopes: tuple[float, ...] = (2.0,) * PLACES) -> list[FileDataset]:
    made = [make_slice(place) for place in range(PLACES)]
    for place, dataset in enumerate(made):
        if place not in missing:
            dataset.RescaleSlope, dataset.RescaleIntercept = slopes[place], -7
    return made


def test_missing_rescale_values_of_a_slice_are_those_of_the_others(tmp_path: Path):
    (stack,) = groups_of(save_all(tmp_path, rescaled({4})))
    assert isinstance(stack, SliceStack)
    assert stack.repairs == ("rescale_filled",)
    assert {(one.header.slope, one.header.intercept) for one in stack.slices} == {(2.0, -7.0)}


@pytest.mark.parametrize(
    ("missing", "slopes"),
    [({0, 1, 2, 3, 4}, (2.0,) * PLACES), ({4}, tuple(1.0 + place for place in range(PLACES)))],
)
def test_unknown_rescale_values_are_refused(tmp_path: Path, missing: set[int], slopes: tuple[float, ...]):
    (group,) = groups_of(save_all(tmp_path, rescaled(missing, slopes)))
    assert isinstance(group, RejectedSlices)
    assert (group.reason, group.measured["missing"]) == ("rescale_missing", len(missing))
