"""Visits that lack a channel and names in folders of several splits are reported."""

import pytest
from ingest_source import label_array, run_ingest, save_json, save_volume, scan_array


@pytest.fixture
def run(tmp_path, sandbox):
    """Ingest `tmp_path`/in and return the warnings by kind."""
    return lambda: {one["kind"]: one for one in run_ingest(tmp_path, sandbox=sandbox).info.warnings}


@pytest.mark.parametrize("lost", [(), ((2, 1),)])
def test_visits_without_all_channels(tmp_path, run, lost):
    names = [(case, channel) for case in range(4) for channel in range(2)]
    for case, channel in names:
        if (case, channel) not in lost:
            path = tmp_path / f"in/imagesTr/c_{case:03d}_{channel:04d}.nii.gz"
            save_volume(path, scan_array(case * 2 + channel))
        save_volume(tmp_path / f"in/labelsTr/c_{case:03d}.nii.gz", label_array(case))
    declared = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "lesion": 1}}
    save_json(tmp_path / "in/dataset.json", {**declared, "numTraining": 4, "file_ending": ".nii.gz"})
    expected = {"kind": "visits_lack_channels", "visits": 1, "total": 4, "channels": 2}
    assert run().get("visits_lack_channels") == (expected if lost else None)


@pytest.mark.parametrize(("tested", "shared"), [("p0_t2", 1), ("p9_t2", 0)])
def test_names_in_folders_of_several_splits(tmp_path, run, tested, shared):
    for number in range(4):
        save_volume(tmp_path / f"in/train/p{number}_t1.nii.gz", scan_array(number))
    save_volume(tmp_path / f"in/test/{tested}.nii.gz", scan_array(8))
    save_volume(tmp_path / "in/test/p7_t2.nii.gz", scan_array(9))
    expected = {"kind": "names_in_two_splits", "names": 1, "total": 5}
    assert run().get("names_in_two_splits") == (expected if shared else None)
