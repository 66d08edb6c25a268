"""Patients of undescribed layouts: folders, visits in names, and names with two readings."""

import pytest
from layout_maker import assert_stops_with_both_readings, count, infer, make_candidates

from medmim.data.ingest.infer_subjects import infer_subjects, visit_cut
from medmim.data.ingest.layout_rules import InferenceRules, SubjectRule

AMBIGUOUS = {
    "names with two numbers": (["a{n}_1.png", "a{n}_2.png"], "are 4 patients with several scans each"),
    "folders with numbers and numbered files": (["x{n}/1.png", "x{n}/2.png"], r"level 1 \(4\) are patients"),
    "visits in folder names": (
        ["OAS{n}_MR1/T1.nii.gz", "OAS{n}_MR2/T1.nii.gz"],
        "are 4 patients with several",
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_both_readings_are_shown(name):
    templates, match = AMBIGUOUS[name]
    assert_stops_with_both_readings(templates, match)


def test_a_subject_pattern_decides():
    templates = ["a{n}_1.png", "a{n}_2.png"]
    first = infer(templates, rules=InferenceRules(subjects=SubjectRule(pattern=r"([^/]*)_")))
    assert count(first) == (8, 0, 8, 4)
    second = infer(templates, rules=InferenceRules(subjects=SubjectRule(pattern=r"([^/]+)$")))
    assert count(second) == (8, 0, 8, 8)


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["p1_slice1", "p1_slice2", "p2_slice1"], 2),
        (["site1_sub1", "site1_sub2", "site2_sub1"], 3),
        (["study2020_1", "study2020_2"], 2),
        (["a1", "b1", "b2"], 3),
    ],
)
def test_visits_in_names_are_merged(names, patients):
    subjects, _ = infer_subjects(*[make_candidates([f"{name}.nii.gz" for name in names])] * 2)
    assert len(set(subjects.values())) == patients


def test_a_cut_needs_several_names_of_one_patient():
    assert visit_cut([("a", "1"), ("a", "2")]) is None
    assert visit_cut([("p", "1", "visit", "1"), ("p", "1", "visit", "2"), ("p", "2", "visit", "1")]) == 2


def test_files_next_to_folders_of_patients_are_patients_of_their_own():
    images = make_candidates(["p1/T1.nii.gz", "p1/T2.nii.gz", "p2/T1.nii.gz", "other.nii.gz"])
    subjects, anonymous = infer_subjects(images, images)
    assert sorted(set(subjects.values())) == ["other", "p1", "p2"]
    assert not anonymous


def test_ct_and_mr_folders_with_equal_names_stop():
    assert_stops_with_both_readings(
        ["ct_train/ct_train_{n}_image.nii.gz", "mr_train/mr_train_{n}_image.nii.gz"], "CT and MR images"
    )
    assert count(infer(["{n}/ct.nii.gz", "{n}/mr.nii.gz"])) == (8, 0, 4, 4)


def test_planes_of_one_examination_are_of_one_patient():
    found = infer([f"train/{plane}/{{n:04d}}.npy" for plane in ("axial", "coronal", "sagittal")])
    assert count(found) == (12, 0, 4, 4)
