"""Deviations of a dataset folder from what was written are found."""

import shutil

from medmim.data.dataset.integrity import find_problems
from medmim.data.dataset.manifest import read_dataset


def test_changed_missing_and_unknown_files_are_found(tiny_dataset, tmp_path):
    root = shutil.copytree(tiny_dataset, tmp_path / "copy")
    dataset = read_dataset(root)
    assert find_problems(dataset) == []
    first, second = dataset.volumes[:2]
    (root / first.image).write_bytes(b"other")
    (root / second.image).rename((root / second.image).with_name("unknown.nii.gz"))
    assert {str(one) for one in find_problems(dataset)} == {
        f"volume of {first.id}: changed since it was written",
        f"volume of {second.id}: missing",
        "folder: 1 file without a row in the manifest",
    }
