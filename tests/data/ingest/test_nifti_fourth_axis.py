"""Frames of 4D files become channels or time points; voxels that nobody annotated are no class."""

import nibabel as nib
import numpy as np
import pytest
from inline_context import make_context

from medmim import files
from medmim.data.dataset.channels import group_channels
from medmim.data.dataset.manifest import read_dataset
from medmim.data.formats.nifti import frames_of, read_image
from medmim.data.ingest.cases import LayoutCase
from medmim.data.ingest.infer_roles import AmbiguousLayoutError
from medmim.data.ingest.nifti_fourth_axis import split_frames
from medmim.stages.ingest import ingest, preview

SHAPE = (6, 7, 8)


@pytest.fixture
def chance():
    return np.random.default_rng(0)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), path)


def ingested(root, **options):
    ingest(root / "source", root / "data", home=root / "home", workers=1, **options)
    reasons = [row["reason"] for row in files.read_jsonl(root / "data" / "ledger.jsonl")]
    return read_dataset(root / "data"), sorted(reasons)


def previewed(root, **options):
    return preview(root / "source", root / "new", workers=1, **options)


def test_frames_are_channels_of_one_visit(tmp_path, chance):
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 2:4, 2:5] = 3
    for number in range(2):
        save(
            tmp_path / f"source/imagesTr/a_{number}.nii.gz",
            chance.normal(100, 9, (*SHAPE, 3)).astype(np.float32),
        )
        save(tmp_path / f"source/labelsTr/a_{number}.nii.gz", label)
    (tmp_path / "source/dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}}')
    dataset, reasons = ingested(tmp_path)
    assert reasons == ["descriptor", "label", "label", "volume", "volume"]
    assert len(dataset.volumes) == 6
    assert dataset.info.label_codes == (0, 3)
    cases, rest = group_channels(dataset.volumes, ["channel2", "channel0", "channel1"])
    assert (len(cases), rest) == (2, ())
    assert all(one.label for one in cases)


def test_time_series_are_refused_or_split_on_request(tmp_path, chance):
    save(tmp_path / "source/sub-01/anat/sub-01_T1w.nii.gz", chance.integers(0, 99, SHAPE).astype(np.int16))
    bold = chance.integers(0, 99, (*SHAPE, 4)).astype(np.int16)
    save(tmp_path / "source/sub-01/func/sub-01_task-rest_bold.nii.gz", bold)
    dataset, reasons = ingested(tmp_path)
    assert reasons == ["time_series", "volume"]
    assert [one.tokens for one in dataset.volumes] == [("t1",)]
    dataset, reasons = ingested(tmp_path, time_series="volumes")
    assert reasons == ["volume", "volume"]
    frames = [read_image(dataset.root / one.image).array for one in dataset.volumes if "bold" in one.tokens]
    assert {int(frame[0, 0, 0]) for frame in frames} == set(bold[0, 0, 0].tolist())
    assert len({one.subject for one in dataset.volumes}) == 1


def test_frames_that_no_file_declares_stop_with_both_readings(tmp_path, chance):
    cine = chance.integers(0, 99, (*SHAPE, 4)).astype(np.int16)
    for number in range(2):
        save(tmp_path / f"source/cine_{number}.nii.gz", cine + number)
    for read in (ingested, previewed):
        with pytest.raises(AmbiguousLayoutError, match=r"4 frames of 2 NIfTI files .* \(2\) .* time points"):
            read(tmp_path)
    dataset, _ = ingested(tmp_path, time_series="channels")
    assert sorted(one.tokens for one in dataset.volumes)[::2] == [(f"channel{frame}",) for frame in range(4)]
    assert previewed(tmp_path, time_series="channels").images == 8
    dataset, _ = ingested(tmp_path, time_series="volumes")
    assert [one.tokens for one in dataset.volumes] == [()] * 8


def test_frames_with_a_step_of_time_are_a_series(tmp_path, chance):
    image = nib.Nifti1Image(chance.integers(0, 99, (*SHAPE, 4)).astype(np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    nib.save(image, tmp_path / "scan.nii.gz")
    assert frames_of(str(tmp_path / "scan.nii.gz")) == (4, True)
    case = LayoutCase(tmp_path / "scan.nii.gz", (), "a", "a", None, "MR", ())
    assert split_frames(make_context(tmp_path), [case], beside_dicom=False) == (case,)


@pytest.mark.parametrize("value", [255, -1])
def test_voxels_that_nobody_annotated_are_no_class(tmp_path, chance, value):
    label = np.zeros(SHAPE, np.int16)
    label[2:4, 2:4, 2:5], label[:, :, 6:] = 17, value
    for number in range(2):
        save(tmp_path / f"source/imagesTr/a_{number}.nii.gz", chance.integers(0, 99, SHAPE).astype(np.int16))
        save(tmp_path / f"source/labelsTr/a_{number}.nii.gz", label)
    dataset, _ = ingested(tmp_path, ignore_label=value)
    info = dataset.info
    assert (info.label_names, info.label_codes, info.ignore_label) == ({17: "class 17"}, (0, 17), 255)
    stored = read_image(dataset.root / dataset.volumes[0].label).array
    assert set(np.unique(stored).tolist()) == {0, 17, 255}
