"""Overlap of training and test is found by key and by voxels."""

import hashlib
import json

import pytest
import tiny

from medmim.data.dataset.contamination_certificate import (
    CONTAMINATED,
    EXACT_ONLY,
    NONE_FOUND,
    POSSIBLE,
    UNKNOWN,
    SeenPatients,
    certify,
    read_seen_patients,
    seen_patients_of,
    seen_scans,
    verdict_of,
    worst_verdict,
    write_seen_patients,
)

WORDS = {"dataset_hash": "d", "split_hash": "s"}


def volume(subject, pixels, number=0):
    coarse = hashlib.sha256(f"{subject}{pixels}".encode()).hexdigest()[:54]
    return tiny.row(subject, number).model_copy(update={"pixels_sha256": pixels, "perceptual_hash": coarse})


TEST = [volume("p8", "88"), volume("p9", "99")]


def test_disjoint_patients_are_clean():
    found = certify(
        TEST, {"pretraining": seen_patients_of([volume("p1", "11")]), "fine-tuning": SeenPatients()}, **WORDS
    )
    assert found.verdict == NONE_FOUND
    assert (found.test_patients, found.test_volumes) == (2, 2)


@pytest.mark.parametrize(
    ("seen", "by_key", "by_pixels"),
    [
        (volume("p9", "other"), 1, 0),
        (volume("somebody else", "99"), 0, 1),  # the same scan under another key
        (volume("p8", "88"), 1, 1),
    ],
)
def test_keys_and_voxels_are_both_compared(seen, by_key, by_pixels):
    found = certify(TEST, {"pretraining": seen_patients_of([volume("p1", "11"), seen])}, **WORDS)
    overlap = found.overlaps["pretraining"]
    assert (overlap.by_key, overlap.by_pixels) == (by_key, by_pixels)
    assert found.verdict == "contaminated"


def test_missing_records_give_unknown():
    assert certify(TEST, {"pretraining": None}, **WORDS).verdict == "unknown"
    assert (
        certify(TEST, {"pretraining": seen_patients_of([volume("p1", None)])}, **WORDS).verdict == "unknown"
    )
    unhashed = certify([volume("p9", None)], {"pretraining": seen_patients_of([volume("p1", "11")])}, **WORDS)
    assert unhashed.verdict == "unknown"


def test_scans_of_a_training_are_counted_by_key_or_voxels():
    said = []
    records = [
        seen_patients_of([volume("p1", "11"), volume("p8", "80")]),
        None,
        seen_patients_of([volume("p2", "99")]),
    ]
    line = "this model was trained on the patient or the voxels of 2 of 2 scans: scores on them are no test"
    assert seen_scans(TEST, records, said.append) == (line,)
    assert said == [f"warning: {line}"]
    assert seen_scans(TEST, [records[1]], said.append) == ()
    assert seen_scans([volume("p3", None)], records, said.append) == ()
    assert len(said) == 1


def test_the_certificate_contains_no_keys():
    text = json.dumps(certify(TEST, {"pretraining": seen_patients_of(TEST)}, **WORDS).as_json())
    assert "contaminated" in text
    for word in ("p8", "p9", "88", "99"):
        assert f'"{word}"' not in text


def test_the_record_is_written_next_to_the_weights(tmp_path):
    assert read_seen_patients(tmp_path) is None
    seen = seen_patients_of([volume("p1", "11"), volume("p2", None)])
    write_seen_patients(tmp_path, seen)
    assert read_seen_patients(tmp_path) == seen
    assert (seen | seen_patients_of(TEST)).patients >= seen_patients_of(TEST).patients
    assert "p1" not in (tmp_path / "patients.json").read_text()


def test_verdicts_of_certificates_of_earlier_versions_are_read():
    assert verdict_of({"verdict": "clean"}) == NONE_FOUND
    assert verdict_of({"verdict": CONTAMINATED}) == CONTAMINATED
    assert verdict_of({}) == UNKNOWN


def test_the_worst_verdict_counts():
    assert worst_verdict([NONE_FOUND, UNKNOWN, CONTAMINATED]) == CONTAMINATED
    assert worst_verdict([NONE_FOUND, UNKNOWN]) == UNKNOWN
    assert worst_verdict([NONE_FOUND, NONE_FOUND]) == NONE_FOUND
    assert worst_verdict([]) == UNKNOWN


def test_the_record_survives_as_metadata_of_a_weights_file():
    seen = seen_patients_of([volume("p1", "11"), volume("p2", None)])
    assert SeenPatients.from_metadata(seen.as_metadata()) == seen
    assert SeenPatients.from_metadata({}) is None
    assert SeenPatients.from_metadata({"medmim.seen_patients": "[1"}) is None


def test_warnings_state_what_was_seen_and_what_is_unknown():
    stages = {
        "pretraining": None,
        "fine-tuning": seen_patients_of([volume("p9", "99")]),
        "normalisation": seen_patients_of([volume("p1", None)]),
    }
    assert certify(TEST, stages, **WORDS).warnings == (
        "it is unknown whether pretraining saw test patients: its record is missing",
        "fine-tuning saw 1 test patient (equal keys) and 1 test volume (equal voxels); scores are optimistic",
        "it is unknown whether normalisation saw test patients under another key: no hash of the "
        "voxels of 1 volume; ingest them again",
    )
    assert certify(TEST, {"pretraining": SeenPatients()}, **WORDS).warnings == ()


def test_look_alike_patients_make_contamination_possible():
    def named(subject, loose):
        return volume(subject, subject).model_copy(update={"loose_subject": loose})

    test = [named("PAT-07", "pat 7"), named("p9", "p 9")]
    seen = seen_patients_of([named("pat-7", "pat 7"), named("p1", "p 1")])
    assert SeenPatients.from_metadata(seen.as_metadata()) == seen
    found = certify(test, {"pretraining": seen}, **WORDS)
    assert (found.verdict, found.overlaps["pretraining"].look_alikes) == (POSSIBLE, 1)
    assert "may have seen 1 test patient:" in found.warnings[0]
    assert (
        certify(test, {"pretraining": seen_patients_of(test)}, **WORDS).overlaps["pretraining"].look_alikes
        == 0
    )
    assert worst_verdict([NONE_FOUND, UNKNOWN, POSSIBLE]) == POSSIBLE


def test_similar_images_make_contamination_possible():
    def scan(subject, text):
        return volume(subject, subject).model_copy(update={"perceptual_hash": text})

    test = [scan("p8", "00" * 27), scan("p9", "3c" * 27)]
    seen = seen_patients_of([scan("p1", "00" * 26 + "0e")])
    assert SeenPatients.from_metadata(seen.as_metadata()) == seen
    found = certify(test, {"pretraining": seen}, **WORDS)
    assert (found.verdict, found.overlaps["pretraining"].look_alikes) == (POSSIBLE, 1)


@pytest.mark.parametrize("without", ["training", "test"])
def test_data_without_perceptual_hashes_are_named_as_not_compared(without):
    train, test = [volume("p1", "11")], TEST
    older = [
        one.model_copy(update={"perceptual_hash": None}) for one in (train if without == "training" else test)
    ]
    train, test = (older, test) if without == "training" else (train, older)
    found = certify(test, {"fine-tuning": seen_patients_of(train)}, **WORDS)
    assert found.verdict == EXACT_ONLY
    assert "altered copies of test images were not searched for" in found.warnings[-1]
    assert verdict_of(found.as_json()) == EXACT_ONLY
    assert certify(test, {"fine-tuning": SeenPatients()}, **WORDS).verdict == NONE_FOUND  # saw nobody


def test_certificates_made_before_look_alikes_were_looked_for_are_exact_only():
    found = certify(TEST, {"fine-tuning": seen_patients_of([volume("p1", "11")])}, **WORDS).as_json()
    assert verdict_of(found) == NONE_FOUND
    del found["overlaps"]["fine-tuning"]["comparable"]
    assert verdict_of(found) == EXACT_ONLY
    assert worst_verdict([NONE_FOUND, EXACT_ONLY]) == EXACT_ONLY
    assert worst_verdict([UNKNOWN, EXACT_ONLY]) == UNKNOWN
