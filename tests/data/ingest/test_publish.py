"""Volumes that may show a face are flagged."""

import tiny

from medmim.data.ingest.publish import face_flag


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
