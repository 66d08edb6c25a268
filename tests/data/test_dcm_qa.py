"""Siemens mosaics, plain and compressed, give the voxels and affines of the published reference volumes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medmim.data.dataset.manifest import Dataset, VolumeRecord, read_dataset
from medmim.data.formats import geometry
from medmim.data.formats.nifti import Image, read_image
from medmim.stages.ingest import ingest

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the folder with real data is not here")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("dcm_qa")
    ingest(REAL / "dcm_qa", folder / "out", home=folder / "home", workers=1)
    return read_dataset(folder / "out")


def references() -> list[tuple[str, Image]]:
    """Return every time point of every reference volume."""
    found = []
    for path in sorted((REAL / "dcm_qa_reference").glob("*.nii")):
        image = nib.load(path)
        for time in range(image.shape[3]):
            array = np.asanyarray(image.dataobj)[..., time]
            found.append((f"{path.stem} {time}", Image(array, np.asarray(image.affine, np.float64))))
    return found


def fits(volume: VolumeRecord, dataset: Dataset, reference: Image) -> bool:
    """Return whether the voxels are equal once the reference's axes run as those of the volume."""
    image = read_image(dataset.root / volume.image)
    turned = geometry.align_axes(reference, image.affine)
    return turned is not None and np.array_equal(turned.array, image.array)


def test_every_reference_volume_is_ingested_once(dataset: Dataset):
    taken: list[str] = []
    for name, reference in references():
        from_dicom = (volume for volume in dataset.volumes if volume.slices)
        matching = [volume for volume in from_dicom if fits(volume, dataset, reference)]
        assert len(matching) == 1, name
        image = read_image(dataset.root / matching[0].image)
        turned = geometry.align_axes(reference, image.affine)
        assert turned is not None
        assert geometry.corner_distance(image.array.shape, image.affine, turned.affine) < 1e-3, name
        np.testing.assert_allclose(image.affine, turned.affine, atol=1e-3)
        assert image.orientation == turned.orientation
        taken.append(matching[0].id)
    assert len(set(taken)) == len(taken) == 18
    # a 4D NIfTI file with a step of time among the DICOM is refused
    assert (dataset.info.reasons["volume"], dataset.info.reasons["time_series"]) == (18, 1)
