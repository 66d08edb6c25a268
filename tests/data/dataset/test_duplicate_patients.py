"""Equal voxels under several subjects, and identifiers that look alike, are reported."""

import tiny

from medmim.data.dataset.duplicate_patients import (
    MAX_IMAGES,
    find_equal_voxels,
    find_look_alike_patients,
    find_similar_images,
    patients_with_equal_images,
)


def row(subject, loose, split):
    return tiny.row(subject, split=split).model_copy(update={"loose_subject": loose})


def test_subjects_with_one_loose_key_are_reported_with_their_splits():
    rows = [row("a", "x", "train"), row("a", "x", "train"), row("b", "y", "test"), row("c", None, "val")]
    assert find_look_alike_patients(rows) == []
    assert find_look_alike_patients([*rows, row("d", "x", "test"), row("e", "y", "test")]) == [
        {"kind": "patients_look_alike", "patients": 4, "subjects": [["a", "d"], ["b", "e"]], "divided": 1}
    ]


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


def test_subjects_are_linked_by_equal_voxels():
    pairs = [("a", "x"), ("b", "y"), ("c", "x"), ("c", "y"), ("d", "z")]
    rows = [
        tiny.row(subject, number).model_copy(update={"pixels_sha256": digest})
        for number, (subject, digest) in enumerate(pairs)
    ]
    assert patients_with_equal_images(rows) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_similar_images_of_different_subjects_are_reported():
    texts = {"x": "00" * 18, "nearly x": "00" * 17 + "0e", "y": "3c" * 18}

    def image(subject, number, text, split):
        known = {"id": f"{subject}-{number}", "perceptual_hash": texts[text]}
        return tiny.row(subject, number, split=split).model_copy(update=known)

    rows = [image("a", 0, "x", "train"), image("a", 1, "x", "train"), image("b", 0, "y", "test")]
    assert find_similar_images(rows) == []
    (warning,) = find_similar_images([*rows, image("c", 0, "nearly x", "test")])
    assert (warning["pairs"], warning["images"], warning["divided"]) == (2, 3, 2)
    assert warning["volumes"] == [["a-0", "c-0"], ["a-1", "c-0"]]
    (warning,) = find_similar_images(rows * (MAX_IMAGES // 3 + 1))
    assert warning["kind"] == "similar_images_not_compared"
