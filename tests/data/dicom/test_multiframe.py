"""Frames of enhanced files and tiles of mosaics become the volumes that their headers describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from frames_maker import item, make_enhanced, make_mosaic, stack_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medmim.data.dicom.convert import convert
from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.slices import RejectedSlices, Slice, SliceStack
from medmim.data.formats.nifti import Image, read_image
from medmim.data.ingest.scan import scan_file


def volumes(path: Path, tmp_path: Path) -> list[tuple[SliceStack, Image, dict[str, Any]]]:
    found = []
    verdicts = stacks_of([Slice(0, path, header) for header in scan_file(path).headers], {})
    for number, stack in enumerate(verdicts):
        assert isinstance(stack, SliceStack), stack
        target = tmp_path / f"{number}.nii.gz"
        facts = convert(
            [str(path)] * len(stack.slices),
            stack.affine.tolist(),
            [[one.header.slope, one.header.intercept] for one in stack.slices],
            staging=str(tmp_path / "work"),
            target=str(target),
            size=[8, 10],
            frames=[one.header.frame for one in stack.slices],
            kind=stack.slices[0].header.kind,
        )
        found.append((stack, read_image(target), facts))
    return found


def test_enhanced_in_several_times(tmp_path: Path):
    make_enhanced(5, times=3).save_as(tmp_path / "file")
    found = volumes(tmp_path / "file", tmp_path)
    pixels = stack_pixels(15)
    assert len(found) == 3
    for time, (_, image, facts) in enumerate(found):
        expected = pixels[time * 5 : time * 5 + 5][::-1].transpose(2, 1, 0) * 2 - 7
        np.testing.assert_array_equal(image.array, expected)
        np.testing.assert_allclose(image.affine[:3, 3], [20.0, -30.0, 5.0], atol=1e-4)
        np.testing.assert_allclose(image.spacing_mm, [1.25, 1.5, 3.0], atol=1e-5)
        assert facts["measured"]["slices_compared"] == 5


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
def test_compressed_enhanced(tmp_path: Path, syntax: str):
    dataset = make_enhanced(4)
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax)
    dataset.save_as(tmp_path / "file")
    ((_, image, facts),) = volumes(tmp_path / "file", tmp_path)
    np.testing.assert_array_equal(image.array, stack_pixels(4)[::-1].transpose(2, 1, 0) * 2 - 7)
    assert facts["measured"]["slices_compared"] == 4


def test_echoes_and_weightings_are_parted(tmp_path: Path):
    dataset = make_enhanced(4, times=2)
    for place, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        del frame.FrameContentSequence[0].TemporalPositionIndex
        frame.MREchoSequence = [item(EffectiveEchoTime=10.0 + 10.0 * (place >= 4))]
    dataset.save_as(tmp_path / "file")
    headers = scan_file(tmp_path / "file").headers
    assert {header.echo_time for header in headers} == {10.0, 20.0}
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.MRDiffusionSequence = [item(DiffusionBValue=800.0)]
    dataset.save_as(tmp_path / "file")
    assert {header.b_value for header in scan_file(tmp_path / "file").headers} == {800.0}
    assert len(volumes(tmp_path / "file", tmp_path)) == 2


def test_a_file_for_each_time(tmp_path: Path):
    slices = []
    for number in range(3):
        path = tmp_path / f"{number}"
        dataset = make_enhanced(4)
        dataset.SOPInstanceUID, dataset.InstanceNumber = f"1.2.3.4.{number}", number + 1
        dataset.save_as(path)
        slices += [Slice(number, path, header) for header in scan_file(path).headers]
    verdicts = stacks_of(slices, {})
    assert [{one.number for one in verdict.slices} for verdict in verdicts] == [{0}, {1}, {2}]


def test_frame_that_is_missing(tmp_path: Path):
    dataset = make_enhanced(6)
    del dataset.PerFrameFunctionalGroupsSequence[2]
    dataset.save_as(tmp_path / "file")
    assert scan_file(tmp_path / "file").reason == "multiframe_without_geometry"
    dataset.NumberOfFrames, dataset.PixelData = 5, stack_pixels(5).tobytes()
    dataset.save_as(tmp_path / "file")
    (verdict,) = stacks_of(
        [Slice(0, tmp_path / "file", header) for header in scan_file(tmp_path / "file").headers], {}
    )
    assert isinstance(verdict, RejectedSlices)
    assert verdict.reason == "missing_slice"


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("count", [3, 7, 9])
def test_mosaic(tmp_path: Path, count: int, upwards: bool):
    make_mosaic(count, upwards=upwards).save_as(tmp_path / "file")
    headers = scan_file(tmp_path / "file").headers
    (stack,) = stacks_of([Slice(0, tmp_path / "file", header) for header in headers], {})
    assert isinstance(stack, SliceStack)
    first = headers[0].position
    assert first is not None
    np.testing.assert_allclose(first, [-20.0, 30.0, 5.0], atol=1e-5)
    order = [one.header.frame for one in stack.slices]
    assert order == (list(range(count)) if upwards else list(range(count))[::-1])
    ((_, image, _),) = volumes(tmp_path / "file", tmp_path)
    np.testing.assert_array_equal(image.array, stack_pixels(count)[order].transpose(2, 1, 0))


def test_mosaics_of_a_series_are_volumes_of_their_own(tmp_path: Path):
    slices = []
    for number in range(3):
        path = tmp_path / f"{number}"
        dataset = make_mosaic()
        dataset.SOPInstanceUID = f"1.2.3.4.{number}"
        dataset.save_as(path)
        slices += [Slice(number, path, header) for header in scan_file(path).headers]
    verdicts = stacks_of(slices, {})
    assert [{one.number for one in verdict.slices} for verdict in verdicts] == [{0}, {1}, {2}]


def test_mosaic_that_does_not_say_how_many(tmp_path: Path):
    dataset = make_mosaic()
    del dataset[0x0029, 0x1010]
    del dataset[0x0019, 0x100A]
    dataset.save_as(tmp_path / "file")
    assert scan_file(tmp_path / "file").reason == "mosaic_without_geometry"
    dataset = make_mosaic()
    dataset[0x0029, 0x1010].value = b"SV10\4\3\2\1 damaged"
    dataset.save_as(tmp_path / "file")
    assert scan_file(tmp_path / "file").fate == "quarantined"


def test_nothing_of_the_private_header_gets_out(tmp_path: Path):
    dataset = make_mosaic()
    dataset[0x0029, 0x1010].value += b"SENTINEL"
    dataset.save_as(tmp_path / "file")
    assert "SENTINEL" not in scan_file(tmp_path / "file").model_dump_json()
    assert pydicom.dcmread(tmp_path / "file").Rows == 24
