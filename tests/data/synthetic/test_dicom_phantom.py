"""The phantom is reproducible and lies where dcm2niix places it."""

import hashlib
import itertools
import subprocess

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
import pytest

from medmim.data.formats.labels import fit_label
from medmim.data.formats.nifti import read_image
from medmim.data.synthetic.anatomy import LABEL_NAMES
from medmim.data.synthetic.dicom_phantom import write_phantom
from medmim.errors import ShapeError

PATIENTS, SIZE, SLICES = 3, 48, 16


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    return folder, write_phantom(folder, seed=3, patients=PATIENTS, size=SIZE, slices=SLICES)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def series_of(folder):
    """Return the headers of the correct series."""
    found = {}
    for path in sorted((folder / "dicom").glob("PHANTOM_P*/**/IM*")):
        header = pydicom.dcmread(path)
        found.setdefault(header.SeriesInstanceUID, []).append(header)
    return found


def test_only_equal_seeds_give_equal_bytes(tmp_path, written):
    write_phantom(tmp_path / "again", seed=3, patients=PATIENTS, size=SIZE, slices=SLICES)
    write_phantom(tmp_path / "other", seed=4, patients=1, size=SIZE, slices=SLICES, faults=False)
    first = contents(written[0])
    assert contents(tmp_path / "again") == first
    assert not set(contents(tmp_path / "other").values()) & set(first.values())


def test_the_expected_result_covers_every_file(written):
    folder, truth = written
    dicom = [path for path in (folder / "dicom").rglob("*") if path.is_file()]
    labels = [path for path in (folder / "labels").rglob("*") if path.is_file()]
    assert truth.fates == {"accepted": PATIENTS * SLICES, "quarantined": 2 * SLICES - 1, "skipped": 1}
    assert (sum(truth.fates.values()), truth.labels) == (len(dicom), len(labels))
    assert {path.name.removesuffix(".nii.gz") for path in labels} == set(truth.affines) == set(truth.shapes)
    assert [path.name for path in dicom if path.suffix] == ["README.txt"]


def test_headers_are_complete_and_instance_numbers_have_another_order(written):
    folder, truth = written
    found = series_of(folder)
    assert set(found) == set(truth.affines)
    assert len({headers[0].PatientID for headers in found.values()}) == PATIENTS
    for headers in found.values():
        assert len({header.SOPInstanceUID for header in headers}) == SLICES
        normal = np.cross(*np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float))
        by_place = sorted(headers, key=lambda header: normal @ np.array(header.ImagePositionPatient, float))
        numbers = [header.InstanceNumber for header in by_place]
        assert sorted(numbers) == list(range(1, SLICES + 1))
        assert numbers != sorted(numbers)
        assert numbers != sorted(numbers, reverse=True)


def test_every_patient_has_another_orientation(written):
    _, truth = written
    axes = [affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in truth.affines.values()]
    for affine in axes:
        np.testing.assert_allclose(affine.T @ affine, np.eye(3), atol=1e-6)
    for first, second in itertools.combinations(axes, 2):
        assert np.abs(first - second).max() > 0.01


def test_dcm2niix_gives_the_same_grid_and_voxels(tmp_path, written):
    folder, truth = written
    for uid, headers in series_of(folder).items():
        place = folder / "dicom" / headers[0].PatientID.replace("PHANTOM-ID-", "PHANTOM_")
        out = tmp_path / uid
        out.mkdir()
        command = [dcm2niix.bin, "-b", "n", "-z", "n", "-o", str(out), "-f", "x", str(place)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        converted = read_image(out / "x.nii")
        between = np.linalg.inv(truth.affines[uid]) @ converted.affine
        order = nib.orientations.io_orientation(between)
        array = nib.orientations.apply_orientation(converted.array, order)
        affine = converted.affine @ nib.orientations.inv_ornt_aff(order, converted.array.shape)
        assert array.shape == truth.shapes[uid]
        corners = np.array([(*c, 1) for c in itertools.product(*[(0, n - 1) for n in array.shape])]).T
        assert np.abs((affine - truth.affines[uid]) @ corners).max() < 1e-3
        for header in headers:
            offset = np.array(header.ImagePositionPatient, float) * [-1, -1, 1]
            index = round((np.linalg.inv(affine) @ [*offset, 1])[2])
            np.testing.assert_array_equal(array[:, :, index], header.pixel_array.T)
        label = fit_label(read_image(folder / "labels" / f"{uid}.nii.gz"), converted)
        assert set(np.unique(label.array)) <= {0, *LABEL_NAMES}
        assert label.array.any()


def test_faults_are_in_the_files(written):
    faults = written[0] / "dicom" / "faults"
    assert len(list((faults / "gap").iterdir())) == SLICES - 1
    sizes = sorted(path.stat().st_size for path in (faults / "cut").iterdir())
    assert sizes[0] < 0.6 * sizes[1]
    with pytest.raises(pydicom.errors.InvalidDicomError, match="missing DICOM File Meta Information"):
        pydicom.dcmread(faults / "README.txt")


def test_without_faults_all_series_are_correct(tmp_path):
    truth = write_phantom(tmp_path, seed=0, patients=1, size=32, slices=8, faults=False)
    assert truth.fates == {"accepted": 8, "quarantined": 0, "skipped": 0}
    assert len(list((tmp_path / "dicom").rglob("IM*"))) == 8


@pytest.mark.parametrize("size", [{"size": 31}, {"slices": 7}])
def test_sizes_below_the_minimum_are_refused(tmp_path, size):
    with pytest.raises(ShapeError, match="32 or more rows and 8 to 1000 slices"):
        write_phantom(tmp_path, seed=0, **size)
