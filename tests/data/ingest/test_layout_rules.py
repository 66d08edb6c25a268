"""The user's rule for patients: a pattern for paths, or a table."""

import pytest

from medmim.data.ingest.layout_rules import SubjectRule, read_subject_table
from medmim.errors import DataError, UsageError


def table(tmp_path, text):
    (tmp_path / "subjects.csv").write_text(text)
    return tmp_path / "subjects.csv"


def test_a_pattern_gives_its_group():
    rule = SubjectRule(pattern=r"^([^/]+)/")
    assert rule.subjects(["p1/a.nii", "p2/a.nii"]) == {"p1/a.nii": "p1", "p2/a.nii": "p2"}
    with pytest.raises(DataError, match="no patient for 1 of 1 image "):
        rule.subjects(["a.nii"])


def test_files_whose_leading_zeros_a_spreadsheet_dropped_are_counted(tmp_path):
    rule = SubjectRule(table=table(tmp_path, "file,subject\n7,A\n12,B\n99,C\n"))
    with pytest.raises(DataError, match=r"'GLOB=skip'; 1 of these would match with leading zeros, as"):
        rule.subjects(["007.png", "12.png"])
    with pytest.raises(DataError, match="or PatientID; 2 of these would match with leading zeros"):
        rule.dicom_subjects([("a.dcm", "1.2", "007"), ("012/b.dcm", "1.3", "P"), ("c.dcm", "1.4", "Q")])


@pytest.mark.parametrize(
    ("pattern", "match"), [("(", "not a regular expression"), ("^a", "expected a group")]
)
def test_invalid_patterns_are_rejected(pattern, match):
    with pytest.raises(UsageError, match=match):
        SubjectRule(pattern=pattern)


@pytest.mark.parametrize("name", ["p1/a.nii.gz", "a.nii.gz", "a", "p1"])
def test_a_table_names_paths_files_stems_or_folders(tmp_path, name):
    rule = SubjectRule(table=table(tmp_path, f"file;patient\n{name};X\n"))
    assert rule.subjects(["p1/a.nii.gz"]) == {"p1/a.nii.gz": "X"}


@pytest.mark.parametrize(
    ("text", "match"),
    [("a,b\n1,2\n", "expected the columns file and subject"), ("file,subject\na,1\na,2\n", "two patients")],
)
def test_invalid_tables_are_rejected(tmp_path, text, match):
    with pytest.raises(UsageError, match=match):
        read_subject_table(table(tmp_path, text))


def test_pattern_and_table_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="exclude each other"):
        SubjectRule(pattern="(a)", table=table(tmp_path, "file,subject\n"))
