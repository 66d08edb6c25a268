"""The slices of a dataset's volumes are found in its sources again, also in sources that were added."""

import json

import pytest
from dicom_maker import write_series
from ingest_source import run_ingest

from medmim.data.dataset.manifest import read_dataset
from medmim.data.dataset.pseudonyms import Keys
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.source_slices import find_instances, slices_of_volume
from medmim.data.sandbox.sandbox import for_scans
from medmim.errors import DataError
from medmim.stages.ingest import ingest


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory):
    """Return a folder with a dataset of `in` and `more`, whose patients have the same PatientID."""
    root = tmp_path_factory.mktemp("two")
    write_series(root / "in" / "a", count=4)
    write_series(root / "more" / "b", count=5, series="1.2.3.5", study="1.2.4")
    run_ingest(root)
    ingest(root / "more", root / "out", home=root / "home", workers=1, add=True)
    return root


def test_slices_of_an_added_source_are_found(two_sources):
    dataset, keys = (
        read_dataset(two_sources / "out"),
        Keys.load_or_create(two_sources / "home" / "project.key"),
    )
    added = next(volume for volume in dataset.volumes if volume.source == "source-2")
    with for_scans(1) as sandbox:
        found = find_instances(two_sources / "more", dataset, keys=keys, sandbox=sandbox)
        others = find_instances(two_sources / "in", dataset, keys=keys, sandbox=sandbox)
    slices = slices_of_volume(added, read_image(dataset.root / added.image).affine, found)
    assert [one.file for one in slices] == sorted({one.file for one in slices}, key=lambda file: file[-7:-4])
    with pytest.raises(DataError, match="cannot be referred to"):
        slices_of_volume(added, read_image(dataset.root / added.image).affine, others)


def test_patients_of_two_sources_with_one_id_are_one_unless_kept_apart(two_sources):
    dataset = read_dataset(two_sources / "out")
    assert len({volume.subject for volume in dataset.volumes}) == 1
    assert {"kind": "patients_in_two_sources", "patients": 1} in json.loads(
        (two_sources / "out" / "dataset.json").read_text()
    )["warnings"]
    ingest(
        two_sources / "more", two_sources / "out", home=two_sources / "home", workers=1, add=True,
        source_name="source-2", separate_patients=True,
    )  # fmt: skip
    assert len({volume.subject for volume in read_dataset(two_sources / "out").volumes}) == 2
