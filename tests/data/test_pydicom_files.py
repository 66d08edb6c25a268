"""The files that pydicom ships: images come out with pydicom's own pixels, others with a golden reason."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.pixels import pixel_array

from medmim.data.manifest import Dataset, LedgerRow, read_dataset
from medmim.data.nifti import read_image
from medmim.data.privacy import Keys
from medmim.data.walk import walk
from medmim.files import read_jsonl
from medmim.stages.ingest import KEY_FILE, ingest

FILES = Path(pydicom.data.__file__).parent / "test_files"
ACCEPTED = {"picture", "volume"}
# Each pattern is a reason; the first that fits a file's path decides.
GOLDEN = {
    r"(README|FileInfo|urls|dump|json|icc|\.py|\.txt)": "not_dicom",
    r"DICOMDIR": "dicomdir",
    r"TINY_ALPHA/.*IM": "no_pixel_data",
    r"CT2/17": "missing_slice",  # 161 of its slices are not there
    r"dicomdirtests/.*/(CR|MR|CT2N|CT5N)": "",
    r"(693_J2KI|CT_small|J2K_pixelrep|MR_small\.dcm|examples_overlay)": "",
    r"MR_small_": "duplicate_file",  # the pixels of MR_small.dcm, packed in other ways
    r"MR_truncated": "truncated",
    r"SC_rgb_jls|JPEGLSNear": "missing_uid",
    r"SC_|JPEG|JPG|GDCMJ2K|image_dfl|ExplVR_BigEnd\.dcm|examples_": "burned_in_risk",
    r"(ExplVR_BigEndNoMeta|no_meta\.dcm)": "bad_header",
    r"(rtplan|ExplVR_LitEndNoMeta)": "radiotherapy_no_image",
    r"(rtdose|badVR)": "dose_no_image",
    r"rtstruct": "label_without_image",
    r"liver": "label_without_image",
    r"(reportsi|test-SR)": "report_no_image",
    r"waveform": "waveform_no_image",
    r"(empty_charset|meta_missing|nested_priv)": "missing_sop_class",
    r"(UN_sequence|no_meta_group|priv_SQ)": "no_pixel_data",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pydicom")
    ingest(FILES, folder / "out", home=folder / "home", workers=1)
    return read_dataset(folder / "out")


def rows(dataset: Dataset) -> list[tuple[Path, LedgerRow]]:
    found = [LedgerRow.model_validate(row) for row in read_jsonl(dataset.root / "ledger.jsonl")]
    return list(zip([one.path for one in walk(FILES)], found, strict=False))


def golden(path: Path) -> str | None:
    name = str(path.relative_to(FILES))
    return next((reason for pattern, reason in GOLDEN.items() if re.search(pattern, name)), None)


def test_every_file_has_its_golden_reason(dataset: Dataset):
    for path, row in rows(dataset):
        expected = golden(path)
        if expected is None:
            continue  # a file that another version of pydicom ships
        if expected:
            assert row.reason.startswith(expected), path.name
        else:
            assert (row.fate, row.reason in ACCEPTED) == ("accepted", True), path.name


def test_pixels_are_those_of_pydicom(dataset: Dataset):
    keys = Keys.load_or_create(dataset.root.parent / "home" / KEY_FILE)
    volumes = {volume.id: volume for volume in dataset.volumes}
    accepted = [(path, row) for path, row in rows(dataset) if row.fate == "accepted"]
    assert len(accepted) >= 29
    for path, row in accepted:
        header = pydicom.dcmread(path)
        volume = volumes[str(row.volume)]
        image = read_image(dataset.root / volume.image)
        place = volume.slices.index(keys.key("instance", header.SOPInstanceUID))
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
        expected = pixel_array(path).astype(np.float64)
        if header.PhotometricInterpretation == "MONOCHROME1":
            expected = 2**header.BitsStored - 1 - expected
        np.testing.assert_allclose(
            image.array[:, :, place].T, expected * slope + intercept, err_msg=path.name
        )


def test_places_are_those_of_the_headers(dataset: Dataset):
    (volume,) = [volume for volume in dataset.volumes if volume.spatial_dims == 3]
    first = pydicom.dcmread(FILES / "dicomdirtests" / "98892001" / "CT5N" / "3353")
    affine = nib.load(dataset.root / volume.image).affine
    np.testing.assert_allclose(
        affine[:3, 3], np.array(first.ImagePositionPatient, float) * [-1, -1, 1], atol=1e-3
    )
