"""Patients whose identifiers look alike are reported."""

import tiny

from medmim.data.dataset.look_alikes import find_look_alike_patients


def row(subject, loose, split):
    return tiny.row(subject, split=split).model_copy(update={"loose_subject": loose})


def test_subjects_with_one_loose_key_are_reported_with_their_splits():
    rows = [row("a", "x", "train"), row("a", "x", "train"), row("b", "y", "test"), row("c", None, "val")]
    assert find_look_alike_patients(rows) == []
    assert find_look_alike_patients([*rows, row("d", "x", "test"), row("e", "y", "test")]) == [
        {"kind": "patients_look_alike", "patients": 4, "subjects": [["a", "d"], ["b", "e"]], "divided": 1}
    ]
