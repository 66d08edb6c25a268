"""What other vendors' headers do: each generated case becomes the volumes that were scanned, or is refused.

The pixels of every slice tell its place and its time, so that a mixture cannot pass for a volume.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import make_slice
from frames_maker import item, make_enhanced, make_mosaic
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGExtended12Bit

from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.slices import RejectedSlices, Slice, SliceStack, Verdict
from medmim.data.ingest.scan import scan_file

PLACES, TIMES = 9, 3
Tweak = Callable[[FileDataset, int, int], None]


def verdicts_of(tmp_path: Path, made: list[FileDataset]) -> list[Verdict]:
    slices = []
    for number, dataset in enumerate(made):
        path = tmp_path / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        seen = scan_file(path)
        assert seen.fate is None, seen.reason
        slices += [Slice(number, path, header) for header in seen.headers]
    return stacks_of(slices, {})


def series(tweak: Tweak, *, by_place: bool = False) -> list[FileDataset]:
    """Make slices of several times; instance numbers count up time after time, or place after place."""
    made = []
    for time in range(TIMES):
        for place in range(PLACES):
            dataset = make_slice(place)
            del dataset.AcquisitionNumber
            dataset.SOPInstanceUID = f"1.2.3.4.{time}.{place}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.InstanceNumber = 1 + (place * TIMES + time if by_place else time * PLACES + place)
            tweak(dataset, place, time)
            made.append(dataset)
    return made


def times_and_places(stack: SliceStack, made: list[FileDataset]) -> tuple[set[str], list[int]]:
    parts = [made[one.number].SOPInstanceUID.split(".")[-2:] for one in stack.slices]
    return {time for time, _ in parts}, [int(place) for _, place in parts]


def check_volumes(verdicts: list[Verdict], made: list[FileDataset]) -> None:
    assert len(verdicts) == TIMES
    for verdict in verdicts:
        assert isinstance(verdict, SliceStack), verdict
        times, places = times_and_places(verdict, made)
        assert (len(times), places) == (1, list(range(PLACES)))


def trigger(value: Callable[[int, int], float]) -> Tweak:
    def tweak(dataset: FileDataset, place: int, time: int) -> None:
        dataset.TriggerTime = value(place, time)

    return tweak


def ge_part(dataset: FileDataset, place: int, time: int) -> None:
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x2F, "SS", time)


def ge_weighting(dataset: FileDataset, place: int, time: int) -> None:
    block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
    block.add_new(0x39, "IS", [1_000_000_000 + (0, 500, 1000)[time], 8, 0, 0])


def philips_time(dataset: FileDataset, place: int, time: int) -> None:
    dataset.TemporalPositionIdentifier = time + 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1.5 + time, -2  # a scale for each volume
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", 0.013)  # the private scale is another one


def echo(dataset: FileDataset, place: int, time: int) -> None:
    dataset.EchoTime = 10.0 * (time + 1)


CASES: dict[str, tuple[Tweak, bool]] = {
    "GE, a trigger time a volume": (trigger(lambda place, time: 1000.0 * time), False),
    "GE, a trigger time a slice": (trigger(lambda place, time: 1000.0 * time + 37.0 * place), False),
    "GE, a trigger time a slice, numbered by place": (
        trigger(lambda place, time: 999.0 * time + place),
        True,
    ),
    "GE, three slices at once": (trigger(lambda place, time: 1000.0 * time + 37.0 * (place % 3)), False),
    "GE, the same trigger times again": (trigger(lambda place, time: 37.0 * (place % 3)), False),
    "GE, parts of complex values": (ge_part, True),
    "GE, weightings in a private element": (ge_weighting, False),
    "Philips, scales": (philips_time, True),
    "echoes": (echo, True),
    "Canon, nothing but numbers": (lambda dataset, place, time: None, False),
}


@pytest.mark.parametrize("name", CASES)
def test_volumes_of_a_series_are_told_apart(tmp_path: Path, name: str):
    tweak, by_place = CASES[name]
    made = series(tweak, by_place=by_place)
    check_volumes(verdicts_of(tmp_path, made), made)


def test_slabs_that_overlap_are_two_volumes(tmp_path: Path):
    made = [make_slice(place) for place in (*range(6), *range(4, 10))]
    for number, dataset in enumerate(made):
        dataset.AcquisitionNumber = 1 + number // 6
        dataset.SOPInstanceUID = f"1.2.3.4.9.{number}"
    found = verdicts_of(tmp_path, made)
    assert [len(one.slices) for one in found if isinstance(one, SliceStack)] == [6, 6]


def test_phase_is_told_from_magnitude(tmp_path: Path):
    made = series(ge_part)
    kinds = {one.slices[0].header.image_type[3:] for one in verdicts_of(tmp_path, made)}
    assert kinds == {(), ("PHASE",), ("REAL",)}


def grid(dataset: FileDataset, *, by_type: bool) -> FileDataset:
    if by_type:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    else:
        dataset.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "36")
    return dataset


@pytest.mark.parametrize("by_type", [True, False])
def test_a_grid_in_a_vendors_own_order_is_refused(tmp_path: Path, by_type: bool):
    """As a lone picture, or as slices of a stack, it would be silently wrong."""
    grid(make_slice(0), by_type=by_type).save_as(tmp_path / "file", enforce_file_format=True)
    assert scan_file(tmp_path / "file").reason == "vendor_grid"


def test_one_slice_a_picture_is_no_grid(tmp_path: Path):
    dataset = make_slice(0)
    dataset.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "1")
    dataset.save_as(tmp_path / "file", enforce_file_format=True)
    assert scan_file(tmp_path / "file").fate is None


def test_mosaics_in_frames_are_refused(tmp_path: Path):
    dataset = make_enhanced(4)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.MRImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", "FMRI", "MOSAIC"])]
    dataset.save_as(tmp_path / "file", enforce_file_format=True)
    assert scan_file(tmp_path / "file").reason == "multiframe_without_geometry"
    dataset = make_enhanced(4)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "FMRI", "MOSAIC"]
    dataset.save_as(tmp_path / "file", enforce_file_format=True)
    assert scan_file(tmp_path / "file").reason == "mosaic_without_geometry"


def test_mosaics_without_their_private_header_are_refused(tmp_path: Path):
    dataset = make_mosaic()
    for tag in [element.tag for element in dataset if element.tag.is_private]:
        del dataset[tag]
    dataset.save_as(tmp_path / "file", enforce_file_format=True)
    assert scan_file(tmp_path / "file").reason == "mosaic_without_geometry"


def test_philips_directions_beside_their_trace(tmp_path: Path):
    """b 0, three directions and their trace in one file: five volumes of their own."""
    dataset = make_enhanced(4, times=5)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        time = number // 4
        del frame.FrameContentSequence[0].TemporalPositionIndex
        said: dict[str, Any] = {"DiffusionBValue": 800.0 if time else 0.0}
        if 1 <= time <= 3:
            direction = np.eye(3)[time - 1].tolist()
            said["DiffusionGradientDirectionSequence"] = [item(DiffusionGradientOrientation=direction)]
        frame.MRDiffusionSequence = [item(**said)]
    found = verdicts_of(tmp_path, [dataset])
    frames = [
        sorted(one.header.frame for one in stack.slices) for stack in found if isinstance(stack, SliceStack)
    ]
    assert sorted(frames) == [list(range(first, first + 4)) for first in range(0, 20, 4)]


def test_a_volume_with_a_slice_too_few_is_refused(tmp_path: Path):
    made = series(trigger(lambda place, time: 1000.0 * time + 37.0 * place))
    del made[4]
    assert all(isinstance(one, RejectedSlices) for one in verdicts_of(tmp_path, made))


@pytest.mark.parametrize(("bits", "reason"), [(12, "jpeg_12_bit"), (8, None)])
def test_extended_jpeg_of_twelve_bits_has_a_reason_of_its_own(tmp_path: Path, bits: int, reason: str | None):
    """The one decoder here, Pillow's, reads eight bits."""
    dataset = make_slice(0)
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelData = (
        b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0\xff\xd8\xff\xd9\xfe\xff\xdd\xe0\0\0\0\0"
    )
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(tmp_path / "file", enforce_file_format=True)
    assert (scan_file(tmp_path / "file").reason or None) == reason
