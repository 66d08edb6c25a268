"""`--overlap regions`: overlapping classes stay complete, and dataset.json names the codes of each."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_maker import write_series
from ingest_source import run_ingest, save_volume, scan_array
from label_maker import LABEL_SHAPE, sorted_slices, write_segmentation

from medmim.data.dataset.integrity import find_problems
from medmim.data.dataset.manifest import RegionRecord
from medmim.data.formats.nifti import read_image
from medmim.data.ingest.context import IngestedVolume
from medmim.data.ingest.label_regions import region_records


def segments():
    """Return a whole tumour and a core that is partly outside it."""
    whole, core = np.zeros((2, *LABEL_SHAPE), np.uint8)
    whole[1:4, 2:6, 3:8] = 1
    core[2:5, 3:5, 4:6] = 1
    return whole, core


def counts(dataset, name):
    codes = next(one.codes for one in dataset.info.regions if one.name == name)
    label = dataset.labelled[0].label
    return int(np.isin(read_image(dataset.root / label).array, codes).sum())


@pytest.mark.parametrize("files", [1, 2])
def test_overlapping_segments_are_kept(tmp_path, sandbox, files):
    whole, core = segments()
    write_series(tmp_path / "in")
    slices = sorted_slices(tmp_path / "in")
    if files == 1:
        write_segmentation(
            tmp_path / "in" / "a.dcm", slices, np.stack([whole, core], -1), names=("whole", "core")
        )
    else:
        write_segmentation(tmp_path / "in" / "a.dcm", slices, whole, names=("whole",))
        write_segmentation(tmp_path / "in" / "b.dcm", slices, core, names=("core",))
    dataset = run_ingest(tmp_path, sandbox=sandbox, overlap="regions")
    assert counts(dataset, "whole") == whole.sum()
    assert counts(dataset, "core") == core.sum()
    assert set(dataset.info.label_names.values()) > {"whole", "core"}
    assert find_problems(dataset) == []


def test_overlapping_mask_files_are_kept(tmp_path, sandbox):
    masks = {"liver": slice(1, 6), "lesion": slice(2, 4)}
    for case in ("s1", "s2"):
        folder = tmp_path / "in" / case
        (folder / "segmentations").mkdir(parents=True)
        save_volume(folder / "ct.nii.gz", scan_array(int(case[1])))
        for name, part in masks.items():
            mask = np.zeros((8, 7, 6), np.uint8)
            mask[part, 2:5, 2:4] = 1
            save_volume(folder / "segmentations" / f"{name}.nii.gz", mask)
    dataset = run_ingest(tmp_path, sandbox=sandbox, overlap="regions")
    assert [one.name for one in dataset.info.regions] == ["liver", "lesion"]
    assert (counts(dataset, "liver"), counts(dataset, "lesion")) == (30, 12)
    assert dataset.info.label_codes == (0, *sorted(dataset.info.label_names))


def test_regions_of_earlier_sources_are_kept(tmp_path):
    earlier = [RegionRecord(name="whole", codes=(1, 3)), RegionRecord(name="core", codes=(3,))]
    made = IngestedVolume.__new__(IngestedVolume)
    object.__setattr__(made, "regions", {"core": (3, 4)})
    assert region_records([made], earlier) == (
        RegionRecord(name="core", codes=(3, 4)),
        RegionRecord(name="whole", codes=(1, 3)),
    )
