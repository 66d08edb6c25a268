"""The files that pydicom ships: images come out with pydicom's own pixels, others with a golden reason."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.pixels import pixel_array

from medmim.data.dataset.manifest import Dataset, LedgerRow, read_dataset
from medmim.data.dataset.pseudonyms import KEY_FILE, Keys
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.sources import walk
from medmim.files import read_jsonl
from medmim.stages.ingest import ingest

FILES = Path(pydicom.data.__file__).parent / "test_files"
TABLE = Path(__file__).with_name("golden_pydicom.txt")


def golden() -> dict[str, tuple[str, str]]:
    """Fate and reason of each file by its name in the table."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return {path: (fate, reason) for fate, reason, path in (line.split(" ", 2) for line in lines)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pydicom")
    ingest(FILES, folder / "out", home=folder / "home", workers=1)
    return read_dataset(folder / "out")


def rows(dataset: Dataset) -> list[tuple[Path, LedgerRow]]:
    found = [LedgerRow.model_validate(row) for row in read_jsonl(dataset.root / "ledger.jsonl")]
    return list(zip([one.path for one in walk(FILES)], found, strict=False))


def test_every_file_has_its_golden_fate_and_reason(dataset: Dataset):
    expected = golden()
    found = {str(path.relative_to(FILES)): (row.fate, row.reason) for path, row in rows(dataset)}
    found = {path: fate for path, fate in found.items() if "__pycache__" not in path}
    assert {path: fate for path, fate in found.items() if path in expected} == expected
    if f"pydicom {pydicom.__version__} " in TABLE.read_text(encoding="utf-8"):
        assert found == expected  # another version ships other files beside these


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
