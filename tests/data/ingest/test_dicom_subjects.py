"""Patients of DICOM files: the user's pattern or table, and headers that contradict each other."""

from pathlib import Path

import numpy as np
import pytest
from dicom_maker import write_series
from ingest_source import run_ingest

from medmim.data.ingest.layout_rules import InferenceRules, SubjectRule
from medmim.data.ingest.warning_texts import warning_text
from medmim.errors import DataError
from medmim.stages.ingest import preview

SITES = ("siteA", "siteB")


@pytest.fixture
def run(tmp_path, sandbox):
    """Ingest `tmp_path`/in with a pattern or the text of a table."""

    def ingest_with(pattern=None, table=None):
        path = None
        if table is not None:
            path = tmp_path / "subjects.csv"
            path.write_text(table)
        rules = InferenceRules(subjects=SubjectRule(pattern, path))
        return run_ingest(tmp_path, sandbox=sandbox, rules=rules)

    return ingest_with


def write_sites(folder: Path, patients=("001", "001"), **values):
    """Write a series of 4 slices for each site; `values` are header values of the sites."""
    for place, (site, patient) in enumerate(zip(SITES, patients, strict=True)):

        def change(dataset, _, place=place):
            for name, texts in values.items():
                setattr(dataset, name, texts[place])
            dataset.PixelData = dataset.PixelData[2 * place :] + dataset.PixelData[: 2 * place]

        series, study = f"1.2.3.{place}.4", f"1.2.3.{place}"
        write_series(folder / site, count=4, tweak=change, series=series, study=study, patient=patient)


def groups(dataset):
    """Return the number of subjects, and of volumes."""
    return len({volume.subject for volume in dataset.volumes}), len(dataset.volumes)


def test_two_people_with_one_patient_id_are_told_apart_by_a_pattern(tmp_path, run):
    write_sites(tmp_path / "in")
    assert groups(run()) == (1, 2)
    assert groups(run(pattern=r"^([^/]+)/")) == (2, 2)


@pytest.mark.parametrize(
    "rows",
    ["siteA,p1\nsiteB,p2", "1.2.3.0.4,p1\n1.2.3.1.4,p2", "1.2.3.0.4,p1\nsiteB,p2", "001,p1\n1.2.3.1.4,p2"],
)
def test_two_people_with_one_patient_id_are_told_apart_by_a_table(tmp_path, run, rows):
    write_sites(tmp_path / "in")
    assert groups(run(table=f"file,subject\n{rows}\n")) == (2, 2)


@pytest.mark.parametrize("column", ["PatientID", "SeriesInstanceUID"])
def test_one_person_with_two_patient_ids_is_one_subject_by_a_table(tmp_path, run, column):
    write_sites(tmp_path / "in", patients=("A", "B"))
    names = ("A", "B") if column == "PatientID" else ("1.2.3.0.4", "1.2.3.1.4")
    assert groups(run()) == (2, 2)
    assert groups(run(table=f"{column},subject\n{names[0]},p\n{names[1]},p\n")) == (1, 2)


def test_patients_without_a_number_are_named_by_the_rule(tmp_path, run):
    write_sites(tmp_path / "in", patients=("", ""))
    assert [one["kind"] for one in run().info.warnings] == ["no_patient_id"]
    assert run(pattern=r"^([^/]+)/").info.warnings == ()


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("file,subject\nsiteA,p1\n", "no patient for 4 of 8 DICOM images"),
        (
            "file,subject\n001,p1\nsiteB,p2\n",
            "two patients, one by folder and another by PatientID, for 4 of 8",
        ),
    ],
)
def test_tables_that_leave_doubt_are_rejected(tmp_path, run, table, match):
    write_sites(tmp_path / "in")
    with pytest.raises(DataError, match=match):
        run(table=table)


def test_patterns_that_divide_a_series_in_a_folder_are_rejected(tmp_path, run):
    write_sites(tmp_path / "in")
    with pytest.raises(DataError, match="several patients to the files of one DICOM series in 2 folders"):
        run(pattern="([^/]+)$")


def test_names_of_slices_are_not_taken_for_patient_ids(tmp_path, run):
    write_sites(tmp_path / "in", patients=("001", "002"))
    for folder in SITES:
        for number, path in enumerate(sorted((tmp_path / "in" / folder).iterdir())):
            path.rename(path.with_name(f"{number:03d}.dcm"))
    assert groups(run(table="file,subject\n001,p1\n002,p2\n")) == (2, 2)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"PatientBirthDate": ("19500101", "19600101")}, "birth dates (1)"),
        ({"PatientSex": ("M", "F")}, "sexes (1)"),
        ({"PatientName": ("SENTINEL^ONE", "SENTINEL^TWO")}, "names (1)"),
    ],
)
def test_contradicting_headers_of_a_patient_are_reported_with_both_readings(tmp_path, run, values, field):
    write_sites(tmp_path / "in", **values)
    warning, sites = run().info.warnings
    text = warning_text(warning)
    assert field in text
    assert "read as 1 patient" in text
    assert "may be 2 people" in text
    assert preview(tmp_path / "in", tmp_path / "new", workers=1).warnings == (text, warning_text(sites))
    assert run(pattern=r"^([^/]+)/").info.warnings == ()
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not any(value.encode() in written for pair in values.values() for value in pair if len(value) > 1)


@pytest.mark.parametrize(
    "values",
    [
        {"PatientName": ("DOE^JOHN", "John Doe")},
        {"PatientSex": ("M", "O")},
        {"PatientBirthDate": ("19500101", "")},
    ],
)
def test_equal_or_absent_header_values_are_no_contradiction(tmp_path, run, values):
    write_sites(tmp_path / "in", **values)
    assert [warning["kind"] for warning in run().info.warnings] == ["patients_of_several_sites"]


def test_the_preview_counts_patients_by_the_rule(tmp_path):
    write_sites(tmp_path / "in")
    rules = InferenceRules(subjects=SubjectRule(r"^([^/]+)/"))
    rows = preview(tmp_path / "in", tmp_path / "out", workers=1, rules=rules).series
    assert [row.patient for row in rows] == [1, 2]


def test_one_patient_id_in_folders_of_two_sites_is_reported(tmp_path, run):
    write_sites(tmp_path / "in")
    (warning,) = run().info.warnings
    assert warning == {"kind": "patients_of_several_sites", "patients": 1}
    assert "--subject-pattern" in warning_text(warning)


@pytest.mark.parametrize("patient", ["ANON", "anonymous", "Unknown", "000", "N/A"])
def test_placeholders_are_no_patients(tmp_path, run, patient):
    write_sites(tmp_path / "in", patients=(patient, patient))
    dataset = run()
    assert len({volume.subject for volume in dataset.volumes}) == 2
    assert [warning["kind"] for warning in dataset.info.warnings] == ["no_patient_id"]


def write_people(folder, people):
    for number, (name, date) in enumerate(people):
        values = {"PatientName": name, "PatientBirthDate": date, "PatientID": f"ID{number}"}

        def identify(dataset, place, values=values, number=number):
            for field, value in values.items():
                setattr(dataset, field, value)
            dataset.PixelData = (
                np.random.default_rng(10 * number + place).integers(0, 900, 80, np.int16).tobytes()
            )

        write_series(
            folder / f"s{number}", series=f"1.2.3.{number + 1}", study=f"1.2.{number + 1}", tweak=identify
        )


@pytest.mark.parametrize(
    ("people", "found"),
    [
        ([("SENTINEL^A", "19700101"), ("a sentinel", "19700101"), ("SENTINEL^B", "19700101")], True),
        ([("SENTINEL^A", "19700101"), ("SENTINEL^A", "19800101"), ("SENTINEL^B", "19700101")], False),
        ([("SENTINEL^A", ""), ("SENTINEL^A", ""), ("SENTINEL^B", "")], False),
        ([("ANON", "19000101")] * 3, False),
    ],
)
def test_one_person_with_several_patient_ids_is_reported(tmp_path, run, people, found):
    write_people(tmp_path / "in", people)
    warning = {"kind": "people_with_several_ids", "people": 1, "patients": 2}
    assert (warning in run().info.warnings) == found
