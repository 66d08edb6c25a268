"""A converted volume has the slices' own values and place, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import CT, OBLIQUE, make_slice, pixels_of, write_series
from pydicom import dcmwrite
from pydicom.dataset import FileDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medmim.data.dicom import dcm2niix as converting
from medmim.data.dicom import decode
from medmim.data.dicom.convert import convert
from medmim.data.dicom.series import stacks_of
from medmim.data.dicom.slices import Slice, SliceStack
from medmim.data.ingest.scan import scan_file


def stack_of(paths: list[Path]) -> SliceStack:
    headers = [scan_file(path).header for path in paths]
    (stack,) = stacks_of(
        [Slice(n, p, h) for n, (p, h) in enumerate(zip(paths, headers, strict=True)) if h], {}
    )
    assert isinstance(stack, SliceStack)
    return stack


def task_of(stack: SliceStack, tmp_path: Path) -> dict[str, Any]:
    return {
        "files": [str(one.path) for one in stack.slices],
        "affine": stack.affine.tolist(),
        "scales": [[one.header.slope, one.header.intercept] for one in stack.slices],
        "staging": str(tmp_path / "work"),
        "target": str(tmp_path / "volume.nii.gz"),
        "size": [stack.slices[0].header.rows, stack.slices[0].header.columns],
        "frames": [one.header.frame for one in stack.slices],
        "kind": stack.slices[0].header.kind,
    }


@pytest.mark.parametrize(
    "orientation",
    [
        OBLIQUE,
        (1, 0, 0, 0, 1, 0),
        (1, 0, 0, 0, 0, -1),
        (0, 1, 0, 0, 0, -1),
        (-1, 0, 0, 0, -1, 0),
        (0, 1, 0, 1, 0, 0),
    ],
)
def test_values_and_place(tmp_path: Path, orientation: tuple[float, ...]):
    stack = stack_of(write_series(tmp_path / "in", orientation=orientation))
    facts = convert(**task_of(stack, tmp_path))
    assert facts["shape"] == [10, 8, 6]
    assert facts["measured"]["slices_compared"] == 6
    assert facts["measured"]["deviation_mm"] < 1e-3
    image = nib.load(tmp_path / "volume.nii.gz")
    np.testing.assert_allclose(image.affine, stack.affine, atol=1e-5)
    array = np.asanyarray(image.dataobj)
    assert array.dtype == np.int16
    for place, one in enumerate(stack.slices):
        np.testing.assert_array_equal(array[:, :, place], pixels_of(one.path).T)
    assert not (tmp_path / "work").exists()


def ct(dataset: FileDataset, place: int) -> None:
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.RescaleType = "HU"


def test_hounsfield_units_are_integers(tmp_path: Path):
    stack = stack_of(write_series(tmp_path / "in", sop=CT, tweak=ct))
    convert(**task_of(stack, tmp_path))
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array[:, :, 2], pixels_of(stack.slices[2].path).T - 1024)


def test_fractional_slope(tmp_path: Path):
    def slope(dataset: FileDataset, place: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.37, 2.5

    stack = stack_of(write_series(tmp_path / "in", tweak=slope))
    convert(**task_of(stack, tmp_path))
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    np.testing.assert_allclose(
        array[:, :, 1], pixels_of(stack.slices[1].path).T * 0.37 + 2.5, rtol=1e-5, atol=1e-4
    )


def test_slope_of_each_slice(tmp_path: Path):
    def slope(dataset: FileDataset, place: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.25 + 0.125 * place, place

    stack = stack_of(write_series(tmp_path / "in", tweak=slope))
    facts = convert(**task_of(stack, tmp_path))
    assert facts["measured"]["slices_compared"] == 6
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    for place, one in enumerate(stack.slices):
        expected = pixels_of(one.path).T * one.header.slope + one.header.intercept
        np.testing.assert_allclose(array[:, :, place], expected, rtol=1e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_transfer_syntaxes(tmp_path: Path, syntax: str):
    paths = []
    for place in range(4):
        dataset = make_slice(place)
        expected = dataset.pixel_array.copy()
        if syntax == RLELossless:
            dataset.compress(RLELossless)
        elif syntax == ExplicitVRBigEndian:
            dataset.PixelData = expected.astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / f"{place}"
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        dcmwrite(path, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
        paths.append(path)
    stack = stack_of(paths)
    facts = convert(**task_of(stack, tmp_path))
    assert facts["measured"]["slices_compared"] == 4
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    np.testing.assert_array_equal(array[:, :, 1], make_slice(1).pixel_array.T)


def test_wrong_values_are_noticed(tmp_path: Path):
    stack = stack_of(write_series(tmp_path / "in"))
    task = task_of(stack, tmp_path)
    task["scales"] = [[1.0, 3.0]] * 6
    facts = convert(**task)
    assert (facts["reason"], facts["measured"]["difference"]) == ("voxels_differ", 3.0)
    assert not (tmp_path / "volume.nii.gz").exists()


def test_wrong_order_is_noticed(tmp_path: Path):
    task = task_of(stack_of(write_series(tmp_path / "in")), tmp_path)
    task["files"][1], task["files"][2] = task["files"][2], task["files"][1]
    assert convert(**task)["reason"] == "voxels_differ"


@pytest.mark.parametrize("fault", ["moved", "stretched"])
def test_wrong_place_is_noticed(tmp_path: Path, fault: str):
    task = task_of(stack_of(write_series(tmp_path / "in")), tmp_path)
    affine = np.array(task["affine"])
    if fault == "moved":
        affine[:3, 3] += 1.0
    else:
        affine[:3, 2] *= 1.2
    facts = convert(**{**task, "affine": affine.tolist()})
    assert facts["reason"] == "geometry_mismatch"
    assert facts["measured"]["deviation_mm"] > 1.0


def test_constant_image(tmp_path: Path):
    def flat(dataset: FileDataset, place: int) -> None:
        dataset.PixelData = bytes(160)

    task = task_of(stack_of(write_series(tmp_path / "in", tweak=flat)), tmp_path)
    assert convert(**task)["reason"] == "constant_image"


def test_converter_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = task_of(stack_of(write_series(tmp_path / "in")), tmp_path)
    monkeypatch.setattr(converting.dcm2niix, "bin", "/bin/false")
    facts = convert(**task)
    assert facts["measured"]["slices_compared"] == 0
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    np.testing.assert_array_equal(array[:, :, 2].T, pixels_of(Path(task["files"][2])))
    assert not (tmp_path / "work").exists()
    monkeypatch.setattr(decode, "_values", lambda *_: None)
    assert convert(**task)["reason"] == "conversion_failed"


def test_pixels_that_pydicom_cannot_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = task_of(stack_of(write_series(tmp_path / "in")), tmp_path)
    monkeypatch.setattr(decode, "_values", lambda *_: None)
    assert convert(**task)["measured"]["slices_compared"] == 0


def test_more_than_one_volume_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = task_of(stack_of(write_series(tmp_path / "in")), tmp_path)
    script = '#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\n: > "$2/volume.nii"\n: > "$2/volumea.nii"\n'
    (tmp_path / "twice").write_text(script)
    (tmp_path / "twice").chmod(0o700)
    monkeypatch.setattr(converting.dcm2niix, "bin", str(tmp_path / "twice"))
    assert convert(**task)["measured"]["slices_compared"] == 0


def test_files_without_a_preamble(tmp_path: Path):
    paths = write_series(tmp_path / "in")
    for path in paths:
        path.write_bytes(path.read_bytes()[132:])
    stack = stack_of(paths)
    facts = convert(**task_of(stack, tmp_path))
    assert facts["measured"]["slices_compared"] == 6
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    np.testing.assert_array_equal(array[:, :, 1].T, make_slice(1).pixel_array)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_compressed_stacks(tmp_path: Path, syntax: str):
    pixels = np.random.default_rng(0).integers(0, 4000, (5, 64, 48)).astype(np.uint16)
    paths = []
    for place in range(5):
        dataset = make_slice(place)
        dataset.Rows, dataset.Columns, dataset.PixelRepresentation = 64, 48, 0
        dataset.PixelData = pixels[place].tobytes()
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax)
        dataset.save_as(tmp_path / f"{place}", enforce_file_format=True)
        paths.append(tmp_path / f"{place}")
    facts = convert(**task_of(stack_of(paths), tmp_path))
    assert facts["measured"]["slices_compared"] == 5
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))


def test_emission_with_a_slope_a_slice(tmp_path: Path):
    def emission(dataset: FileDataset, place: int) -> None:
        dataset.Modality, dataset.Units, dataset.CorrectedImage = "PT", "BQML", ["DECY", "ATTN"]
        dataset.RescaleSlope, dataset.RescaleIntercept = round(0.3 + 0.11 * place, 6), 0
        dataset.FrameReferenceTime = 1000.0

    stack = stack_of(write_series(tmp_path / "in", sop="1.2.840.10008.5.1.4.1.1.128", tweak=emission))
    assert stack.slices[0].header.modality == "PT"
    facts = convert(**task_of(stack, tmp_path))
    assert facts["measured"]["slices_compared"] == 6
    array = np.asanyarray(nib.load(tmp_path / "volume.nii.gz").dataobj)
    for place, one in enumerate(stack.slices):
        np.testing.assert_allclose(array[:, :, place], pixels_of(one.path).T * one.header.slope, rtol=1e-6)


def test_tilted_stack_is_upright_and_in_its_place(tmp_path: Path):
    def tilt(dataset: FileDataset, place: int) -> None:
        drift = np.array([float(v) for v in dataset.ImageOrientationPatient[3:]]) * 0.6 * place
        position = [float(v) for v in dataset.ImagePositionPatient]
        dataset.ImagePositionPatient = [round(v, 6) for v in (np.array(position) + drift).tolist()]

    stack = stack_of(write_series(tmp_path / "in", tweak=tilt))
    assert stack.repairs == ("tilt_corrected",)
    facts = convert(**task_of(stack, tmp_path))
    image = nib.load(tmp_path / "volume.nii.gz")
    assert facts["shape"] == [10, 10, 6]
    axes = image.affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag([1.25**2, 1.5**2, 9.0]), atol=1e-4)
