"""Frames of multi-frame files become the volumes that their functional groups describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import groups_of, save_all, task_of
from frames_maker import item, make_enhanced, stack_pixels
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medmim.data.dicom.conversion_task import ConversionResult
from medmim.data.dicom.convert_with_decoder import convert_with_decoder
from medmim.data.dicom.slices import RejectedSlices, SliceStack
from medmim.data.formats.nifti import Image, read_image
from medmim.data.ingest.scan import scan_file


def volumes(folder: Path, *datasets: FileDataset) -> list[tuple[SliceStack, Image, ConversionResult]]:
    found = []
    for stack in groups_of(save_all(folder / "in", datasets)):
        assert isinstance(stack, SliceStack), stack
        task = task_of(stack, folder)
        found.append(
            (stack, read_image(Path(task.target)) if (result := convert_with_decoder(task)) else None, result)
        )
    return found  # type: ignore[return-value]


def test_time_points_are_volumes(tmp_path: Path):
    found = volumes(tmp_path, make_enhanced(5, times=3))
    pixels = stack_pixels(15)
    assert len(found) == 3
    for time, (_, image, result) in enumerate(found):
        expected = pixels[time * 5 : time * 5 + 5][::-1].transpose(2, 1, 0) * 2 - 7
        np.testing.assert_array_equal(image.array, expected)
        np.testing.assert_allclose(image.affine[:3, 3], [20.0, -30.0, 5.0], atol=1e-4)
        np.testing.assert_allclose(image.spacing_mm, [1.25, 1.5, 3.0], atol=1e-5)
        assert result.measured["slices_uncompressed"] == 5


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
def test_compressed_frames(tmp_path: Path, syntax: str):
    dataset = make_enhanced(4)
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    ((_, image, result),) = volumes(tmp_path, dataset)
    np.testing.assert_array_equal(image.array, stack_pixels(4)[::-1].transpose(2, 1, 0) * 2 - 7)
    assert result.measured.get("slices_compared", 4) == 4


def test_echoes_and_b_values_are_separated(tmp_path: Path):
    dataset = make_enhanced(4, times=2)
    for place, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        del frame.FrameContentSequence[0].TemporalPositionIndex
        frame.MREchoSequence = [item(EffectiveEchoTime=10.0 + 10.0 * (place >= 4))]
        frame.MRDiffusionSequence = [item(DiffusionBValue=800.0)]
    (path,) = save_all(tmp_path, [dataset])
    headers = scan_file(path).headers
    assert {header.echo_time for header in headers} == {10.0, 20.0}
    assert {header.b_value for header in headers} == {800.0}
    assert len(groups_of([path])) == 2


def test_a_file_per_time_point_is_a_volume_per_file(tmp_path: Path):
    datasets = [make_enhanced(4) for _ in range(3)]
    for number, dataset in enumerate(datasets):
        dataset.SOPInstanceUID, dataset.InstanceNumber = f"1.2.3.4.{number}", number + 1
    groups = groups_of(save_all(tmp_path, datasets))
    assert [{one.number for one in group.slices} for group in groups] == [{0}, {1}, {2}]


def test_a_missing_frame_is_noticed(tmp_path: Path):
    dataset = make_enhanced(6)
    del dataset.PerFrameFunctionalGroupsSequence[2]
    (path,) = save_all(tmp_path, [dataset])
    assert scan_file(path).reason == "multiframe_without_geometry"
    dataset.NumberOfFrames, dataset.PixelData = 5, stack_pixels(5).tobytes()
    (group,) = groups_of(save_all(tmp_path, [dataset]))
    assert isinstance(group, RejectedSlices)
    assert group.reason == "missing_slice"


def test_measures_and_orientation_of_each_frame_are_read(tmp_path: Path):
    dataset = make_enhanced(5)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            setattr(frame, name, shared[name].value)
    dataset.SharedFunctionalGroupsSequence = []
    ((_, image, _),) = volumes(tmp_path, dataset)
    np.testing.assert_allclose(image.spacing_mm, [1.25, 1.5, 3.0], atol=1e-5)


def test_diffusion_directions_and_their_trace_are_separate_volumes(tmp_path: Path):
    """As Philips stores them: b = 0, three directions and their trace in one file."""
    dataset = make_enhanced(4, times=5)
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        time = number // 4
        del frame.FrameContentSequence[0].TemporalPositionIndex
        values: dict[str, Any] = {"DiffusionBValue": 800.0 if time else 0.0}
        if 1 <= time <= 3:
            direction = np.eye(3)[time - 1].tolist()
            values["DiffusionGradientDirectionSequence"] = [item(DiffusionGradientOrientation=direction)]
        frame.MRDiffusionSequence = [item(**values)]
    groups = groups_of(save_all(tmp_path, [dataset]))
    frames = [
        sorted(one.header.frame for one in stack.slices) for stack in groups if isinstance(stack, SliceStack)
    ]
    assert sorted(frames) == [list(range(first, first + 4)) for first in range(0, 20, 4)]
