"""A decoded volume has the values and the grid of its slices, or is refused."""

from __future__ import annotations

from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pytest
from dicom_maker import CT, OBLIQUE, make_slice, move, pixels_of, save_all, stack_of, task_of, write_series
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

from medmim.data.dicom.convert_with_decoder import convert_with_decoder


def compressed(dataset: FileDataset, place: int) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


def array_in(folder: Path) -> np.ndarray:
    return np.asanyarray(nib.load(folder / "volume.nii.gz").dataobj)


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
def test_compressed_volume_has_the_values_and_grid_of_its_slices(
    tmp_path: Path, orientation: tuple[float, ...]
):
    stack = stack_of(write_series(tmp_path / "in", orientation=orientation, tweak=compressed))
    result = convert_with_decoder(task_of(stack, tmp_path))
    assert result.shape == (10, 8, 6)
    assert result.measured["slices_compared"] == 6
    assert result.measured["deviation_mm"] < 1e-3
    np.testing.assert_allclose(nib.load(tmp_path / "volume.nii.gz").affine, stack.affine, atol=1e-5)
    array = array_in(tmp_path)
    assert array.dtype == np.int16
    for place, one in enumerate(stack.slices):
        np.testing.assert_array_equal(array[:, :, place], pixels_of(one.path).T)
    assert not (tmp_path / "work").exists()


def test_hounsfield_units_are_integers(tmp_path: Path):
    def ct(dataset: FileDataset, place: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        compressed(dataset, place)

    stack = stack_of(write_series(tmp_path / "in", sop=CT, tweak=ct))
    assert convert_with_decoder(task_of(stack, tmp_path)).measured["slices_compared"] == 6
    array = array_in(tmp_path)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array[:, :, 2], pixels_of(stack.slices[2].path).T - 1024)


@pytest.mark.parametrize("step", [0.0, 0.125])
def test_fractional_slopes_of_all_slices_are_applied(tmp_path: Path, step: float):
    def slope(dataset: FileDataset, place: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.25 + step * place, 2.5 + place * bool(step)
        compressed(dataset, place)

    stack = stack_of(write_series(tmp_path / "in", tweak=slope))
    assert convert_with_decoder(task_of(stack, tmp_path)).measured["slices_compared"] == 6
    for place, one in enumerate(stack.slices):
        expected = pixels_of(one.path).T * one.header.slope + one.header.intercept
        np.testing.assert_allclose(array_in(tmp_path)[:, :, place], expected, rtol=1e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_uncompressed_syntaxes(tmp_path: Path, syntax: str):
    paths = []
    for place in range(4):
        dataset = make_slice(place)
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        paths.append(tmp_path / f"{place}")
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        dcmwrite(paths[-1], dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    result = convert_with_decoder(task_of(stack_of(paths), tmp_path))
    assert result.measured["slices_uncompressed"] == 4
    np.testing.assert_array_equal(array_in(tmp_path)[:, :, 1], make_slice(1).pixel_array.T)


def test_decoders_that_disagree_are_noticed(tmp_path: Path):
    paths = write_series(tmp_path / "in", tweak=compressed)
    result = convert_with_decoder(task_of(stack_of(paths), tmp_path, scales=[(1.0, 3.0)] * 6))
    assert (result.reason, result.measured["difference"]) == ("voxels_differ", 3.0)
    assert not (tmp_path / "volume.nii.gz").exists()


@pytest.mark.parametrize("fault", ["moved", "stretched"])
def test_headers_that_contradict_the_grid_are_noticed(tmp_path: Path, fault: str):
    stack = stack_of(write_series(tmp_path / "in", tweak=compressed))
    affine = stack.affine.copy()
    if fault == "moved":
        affine[:3, 3] += 1.0
    else:
        affine[:3, 2] *= 1.2
    result = convert_with_decoder(task_of(stack, tmp_path, affine=affine.tolist()))
    assert result.reason == "geometry_mismatch"
    assert result.measured["deviation_mm"] > 1.0


def test_constant_volumes_are_refused(tmp_path: Path):
    def flat(dataset: FileDataset, place: int) -> None:
        dataset.PixelData = bytes(160)

    task = task_of(stack_of(write_series(tmp_path / "in", tweak=flat)), tmp_path)
    assert convert_with_decoder(task).reason == "constant_image"


@pytest.mark.parametrize("output", ["", ': > "$2/volume.nii"\n: > "$2/volumea.nii"\n'])
def test_without_one_volume_of_dcm2niix_pydicom_alone_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
):
    task = task_of(stack_of(write_series(tmp_path / "in", tweak=compressed)), tmp_path)
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\n' + output)
    program.chmod(0o700)
    monkeypatch.setattr(dcm2niix, "bin", str(program))
    assert convert_with_decoder(task).measured["slices_compared"] == 0
    np.testing.assert_array_equal(array_in(tmp_path)[:, :, 2].T, pixels_of(Path(task.files[2])))


def test_files_without_a_preamble(tmp_path: Path):
    paths = write_series(tmp_path / "in", tweak=compressed)
    for path in paths:
        path.write_bytes(path.read_bytes()[132:])
    result = convert_with_decoder(task_of(stack_of(paths), tmp_path))
    assert result.measured["slices_compared"] == 6
    np.testing.assert_array_equal(array_in(tmp_path)[:, :, 1].T, make_slice(1).pixel_array)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_lossless_compressions(tmp_path: Path, syntax: str):
    pixels = np.random.default_rng(0).integers(0, 4000, (5, 64, 48)).astype(np.uint16)
    slices = [make_slice(place) for place in range(5)]
    for dataset, values in zip(slices, pixels, strict=True):
        dataset.Rows, dataset.Columns, dataset.PixelRepresentation = 64, 48, 0
        dataset.PixelData = values.tobytes()
        if syntax == DeflatedExplicitVRLittleEndian:
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax, generate_instance_uid=False)
    result = convert_with_decoder(task_of(stack_of(save_all(tmp_path / "in", slices)), tmp_path))
    assert result.measured.get("slices_compared", 5) == 5
    np.testing.assert_array_equal(array_in(tmp_path), pixels.transpose(2, 1, 0))


def test_tilted_stack_is_resampled_upright(tmp_path: Path):
    def tilt(dataset: FileDataset, place: int) -> None:
        move(dataset, np.array([float(v) for v in dataset.ImageOrientationPatient[3:]]) * 0.6 * place)

    stack = stack_of(write_series(tmp_path / "in", tweak=tilt))
    assert stack.repairs == ("tilt_corrected",)
    assert convert_with_decoder(task_of(stack, tmp_path)).shape == (10, 10, 6)
    axes = nib.load(tmp_path / "volume.nii.gz").affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag([1.25**2, 1.5**2, 9.0]), atol=1e-4)
