"""Equal voxels under several subjects are reported."""

import tiny

from medmim.data.dataset.integrity import find_equal_voxels


def test_two_subjects_with_the_same_voxels_are_reported():
    def row(subject, number, digest, split):
        known = {"id": f"{subject}-{number}", "pixels_sha256": digest}
        return tiny.row(subject, number, split=split).model_copy(update=known)

    rows = [row("a", 0, "x", "train"), row("a", 1, "x", "train"), row("b", 0, "y", "test")]
    assert find_equal_voxels([*rows, row("c", 0, None, "val")]) == []
    assert find_equal_voxels([*rows, row("d", 0, "x", "test")]) == [
        {
            "kind": "same_pixels_under_two_subjects",
            "volumes": ["a-0", "a-1", "d-0"],
            "subjects": ["a", "d"],
            "splits": ["test", "train"],
        }
    ]
