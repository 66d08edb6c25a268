"""Equal voxels have one number, whatever their axes, type and place; under two subjects they are reported."""

import numpy as np
import tiny

from medmim.data.dataset.duplicates import same_pixels
from medmim.data.formats.nifti import Image
from medmim.data.formats.write_volume import pixels_digest
from medmim.data.ingest.publish import face_flag

ARRAY = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)


def turned(array, affine):
    """The same voxels with two axes exchanged and one reversed."""
    move = np.eye(4)[:, [1, 0, 2, 3]]
    move[2, 2], move[2, 3] = -1, array.shape[2] - 1
    return Image(np.ascontiguousarray(array.transpose(1, 0, 2)[:, :, ::-1]), affine @ move)


def test_the_same_voxels_have_one_number():
    image = Image(ARRAY, np.diag([1.0, 2.0, 3.0, 1.0]))
    assert pixels_digest(image) == pixels_digest(
        Image(ARRAY.astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
    )
    assert pixels_digest(image) == pixels_digest(turned(ARRAY, image.affine))


def test_other_voxels_have_another():
    image = Image(ARRAY, np.eye(4))
    other = ARRAY.copy()
    other[1, 2, 3] += 1
    assert pixels_digest(image) != pixels_digest(Image(other, np.eye(4)))
    assert pixels_digest(image) != pixels_digest(Image(ARRAY.reshape(5, 4, 6), np.eye(4)))
    assert pixels_digest(image) != pixels_digest(Image(ARRAY[::-1], np.eye(4)))


def test_two_subjects_with_the_same_voxels_are_reported():
    def row(subject, number, digest, split):
        known = {"id": f"{subject}-{number}", "pixels_sha256": digest}
        return tiny.row(subject, number, split=split).model_copy(update=known)

    rows = [row("a", 0, "x", "train"), row("a", 1, "x", "train"), row("b", 0, "y", "test")]
    assert same_pixels([*rows, row("c", 0, None, "val")]) == []
    assert same_pixels([*rows, row("d", 0, "x", "test")]) == [
        {
            "kind": "same_pixels_under_two_subjects",
            "volumes": ["a-0", "a-1", "d-0"],
            "subjects": ["a", "d"],
            "splits": ["test", "train"],
        }
    ]


def test_only_what_may_show_a_face_is_flagged():
    def flag(shape=(256, 256, 150), spacing=(1.0, 1.0, 1.0), **facts):
        return face_flag(tiny.row(shape=shape, spacing=spacing).model_copy(update=facts))

    possible = {"recognizable_face": "possible"}
    assert flag() == possible
    assert flag(tokens=("t1", "head")) == possible
    assert flag(shape=(512, 512, 24), spacing=(0.45, 0.45, 6.5)) == possible
    assert flag(tokens=("ct", "chest")) == {}
    assert flag(tokens=("head", "chest")) == possible
    assert flag(shape=(35, 50, 35)) == {}
    assert flag(shape=(256, 256, 1), spatial_dims=2) == {}
    assert flag(modality="US") == {}
