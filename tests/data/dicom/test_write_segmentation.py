"""DICOM-SEG files lie on the slices or frames of their volume, and refer to them by their own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_maker import groups_of, make_slice, save_all
from frames_maker import make_enhanced
from pydicom.dataset import FileDataset

from medmim.data.dicom.slices import SliceGroup, SliceStack, position_and_steps
from medmim.data.dicom.write_segmentation import SourceSlice, write_segmentation
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import write_volume
from medmim.errors import DataError


def per_frame(dataset: FileDataset) -> FileDataset:
    """Move measures and orientation to each frame, as Siemens XA and Philips store them."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            setattr(frame, name, shared[name].value)
    dataset.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    return dataset


def write(
    group: SliceGroup, folder: Path, classes: int = 1
) -> tuple[dict[str, Any], pydicom.Dataset, np.ndarray]:
    """Write a random label of a stack as DICOM-SEG; return the result, the file and the label in mm (LPS)."""
    assert isinstance(group, SliceStack)
    rng = np.random.default_rng(0)
    label = (rng.random(group.shape) > 0.7) * rng.integers(1, classes + 1, group.shape).astype(np.uint8)
    label[:, :, 1] = 0  # empty slices have no frame
    write_volume(Image(label, group.affine), folder / "label.nii.gz")
    slices = [
        SourceSlice(
            file=str(one.path),
            frame=None if one.header.kind == "slice" else one.header.frame,
            place=tuple(position_and_steps(one.header)),
            size=(one.header.rows, one.header.columns),
        )
        for one in group.slices
    ]
    names = {"1": "Ödem"} | {str(number): f"class {number}" for number in range(2, classes + 1)}
    result = write_segmentation(
        str(folder / "label.nii.gz"), str(folder / "seg.dcm"), slices=slices, names=names, model="0" * 64
    )
    marked = np.argwhere(label) @ group.affine[:3, :3].T + group.affine[:3, 3]
    return result, pydicom.dcmread(folder / "seg.dcm"), marked * [-1, -1, 1]


def marked_points(path: Path) -> np.ndarray:
    volume = hd.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    return np.argwhere(volume.array > 0) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def check_places(found: np.ndarray, expected: np.ndarray) -> None:
    def ordered(points: np.ndarray) -> np.ndarray:
        rounded = points.round(2)
        return points[np.lexsort(rounded.T)]

    np.testing.assert_allclose(ordered(found), ordered(expected), atol=5e-3)


@pytest.mark.parametrize("change", [lambda dataset: dataset, per_frame])
def test_frames_of_one_volume(tmp_path: Path, change: Any):
    (stack,) = groups_of(save_all(tmp_path, [change(make_enhanced(5))]))
    result, file, marked = write(stack, tmp_path)
    assert (result["frames"], result["voxels"]) == (4, len(marked))
    check_places(marked_points(tmp_path / "seg.dcm"), marked)
    assert file.SegmentSequence[0].SegmentLabel == "Ödem"


@pytest.mark.parametrize("change", [lambda dataset: dataset, per_frame])
def test_one_volume_of_several_in_a_file_refers_to_its_own_frames(tmp_path: Path, change: Any):
    groups = groups_of(save_all(tmp_path, [change(make_enhanced(5, times=3))]))
    assert len(groups) == 3
    for group in groups:
        _, file, marked = write(group, tmp_path)
        check_places(marked_points(tmp_path / "seg.dcm"), marked)
        numbers = {
            int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
            for frame in file.PerFrameFunctionalGroupsSequence
        }
        assert numbers < {one.header.frame + 1 for one in group.slices}
        assert len(numbers) == 4


@pytest.mark.parametrize("times", [1, 3])
def test_every_segment_refers_to_the_frame_at_its_place(tmp_path: Path, times: int):
    source = make_enhanced(5, times=times)
    places = [
        frame.PlanePositionSequence[0].ImagePositionPatient
        for frame in source.PerFrameFunctionalGroupsSequence
    ]
    for group in groups_of(save_all(tmp_path, [source])):
        result, file, _ = write(group, tmp_path, classes=3)
        assert result["frames"] == 3 * 4
        for frame in file.PerFrameFunctionalGroupsSequence:
            number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
            own = frame.PlanePositionSequence[0].ImagePositionPatient
            np.testing.assert_allclose(places[number - 1], own, atol=1e-4)
            assert number - 1 in {one.header.frame for one in group.slices}


def test_missing_frame_of_reference_is_generated(tmp_path: Path):
    slices = [make_slice(place) for place in range(5)]
    for dataset in slices:
        del dataset.FrameOfReferenceUID
    (stack,) = groups_of(save_all(tmp_path, slices))
    result, file, marked = write(stack, tmp_path)
    assert result["new_frame_of_reference"]
    check_places(marked_points(tmp_path / "seg.dcm"), marked)
    first = file.FrameOfReferenceUID
    assert write(stack, tmp_path)[1].FrameOfReferenceUID == first


def test_frames_in_several_files_are_refused(tmp_path: Path):
    paths = save_all(tmp_path, [make_enhanced(3), make_enhanced(3)])
    (first, second) = (groups_of([path])[0] for path in paths)
    slices = (first.slices[0], second.slices[1], first.slices[2])
    mixed = SliceStack(slices, first.affine)  # type: ignore[union-attr]
    with pytest.raises(DataError, match="all frames of the volume in one file"):
        write(mixed, tmp_path)
