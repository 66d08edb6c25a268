"""Tests of the columns of CSV files that name volumes or patients."""

import pytest
import tiny

from medmim.data.dataset.manifest import Dataset, DatasetInfo
from medmim.data.dataset.pseudonyms import KEY_FILE, Keys
from medmim.errors import UsageError
from medmim.stages.target_table import UNKNOWN_GROUP, subgroups, with_targets

CASES = [tiny.row(f"p{number}") for number in range(3)]


@pytest.fixture
def dataset(tmp_path):
    """One patient with two volumes, one of another source, and one without an age."""
    keys = Keys.load_or_create(tmp_path / KEY_FILE)
    subjects = [keys.key("subject", "ANN"), keys.scoped("north").key("subject", "BOB"), "other"]
    rows = [tiny.row(subjects[0], 0), tiny.row(subjects[0], 1), tiny.row(subjects[1]), tiny.row(subjects[2])]
    rows[2] = rows[2].model_copy(update={"source": "north"})
    return Dataset(tmp_path, DatasetInfo(name="d"), tuple(rows))


def ages(tmp_path, text):
    path = tmp_path / "ages.csv"
    path.write_text(text)
    return path


def test_patients_are_found_by_their_identifiers_in_the_source(dataset, tmp_path):
    said = []
    path = ages(tmp_path, "patient,age\nANN,63.5\nBOB,40\nEVE,\nZOE,12\n")
    found = with_targets(dataset, path, "age", home=tmp_path, log=said.append)
    assert [row.target for row in found.volumes] == ["63.5", "63.5", "40", None]
    assert said == ["age: no value for 1 of 4 volumes; no volume for 1 of 3 rows"]
    assert found.info == dataset.info
    assert with_targets(dataset, None, "", home=tmp_path, log=said.append) is dataset


@pytest.mark.parametrize("key", ["volume", "subject"])
def test_volumes_are_found_by_keys_of_the_manifest(key, dataset, tmp_path):
    row = dataset.volumes[0]
    path = ages(tmp_path, f"{key},age\n{row.id if key == 'volume' else row.subject},5\n")
    found = with_targets(dataset, path, "age", home=tmp_path, log=lambda line: None)
    assert [row.target for row in found.volumes][:2] == (["5", None] if key == "volume" else ["5", "5"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\nANN,3\n", "has the columns name, age: expected age, and volume, subject or patient"),
        ("patient,size\nANN,3\n", "expected age, and volume, subject or patient"),
        ("patient,age\nANN,3\nANN,4\n", "line 3: the patient of this row has another age too"),
        ("patient,age\nEVE,3\n", "no row of .* has the patient of a volume"),
        ("", "has no columns: expected age"),
        ("patient,age,age\nANN,3,4\n", "has several columns age: expected one"),
        ("patient,note,age\nANN,tall, thin,3\n", "line 2: expected 3 cells, got more"),
        ("patient;age\nANN;63,5\n", "column age: '63,5' has a comma: write numbers as 1234.5"),
        ('patient,age\nANN,"1,234"\n', "column age: '1,234' has a comma: write numbers as 1234.5"),
        ("patient,age\nANN,Old\nBOB,old\n", "'Old' and 'old' differ in case or spaces only"),
    ],
)
def test_tables_that_cannot_be_used_are_rejected(text, message, dataset, tmp_path):
    with pytest.raises(UsageError, match=message):
        with_targets(dataset, ages(tmp_path, text), "age", home=tmp_path, log=lambda line: None)


def test_patients_whose_leading_zeros_a_spreadsheet_dropped_are_counted(dataset, tmp_path):
    keys, said = Keys.load_or_create(tmp_path / KEY_FILE), []
    rows = [tiny.row(keys.scoped("north").key("subject", "007")).model_copy(update={"source": "north"})]
    dataset = Dataset(tmp_path, dataset.info, (*dataset.volumes, *rows))
    with pytest.raises(UsageError, match="keys of the dataset; 1 of these would match with leading zeros"):
        with_targets(dataset, ages(tmp_path, "patient,age\n7,3\n"), "age", home=tmp_path, log=said.append)
    with_targets(dataset, ages(tmp_path, "patient,age\nANN,4\n7,3\n"), "age", home=tmp_path, log=said.append)
    assert "no volume for 1 of 2 rows; 1 of these would match with leading zeros" in said[0]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_cells_may_be_separated_by_semicolons_or_tabs_as_spreadsheets_write_them(
    separator, dataset, tmp_path
):
    path = ages(tmp_path, "\ufeffpatient;age;note\nANN;63.5;a, b\nBOB;40;\n".replace(";", separator))
    found = with_targets(dataset, path, "age", home=tmp_path, log=lambda line: None)
    assert [row.target for row in found.volumes] == ["63.5", "63.5", "40", None]


def test_spellings_of_one_number_are_one_class_and_missing_values_none(dataset, tmp_path):
    path = ages(
        tmp_path,
        "subject,grade\nother,1.0\n{},1\n{},NaN\n".format(*(one.subject for one in dataset.volumes[1:3])),
    )
    found = with_targets(dataset, path, "grade", home=tmp_path, log=lambda line: None)
    assert [row.target for row in found.volumes] == ["1", "1", None, "1"]


def test_a_site_is_a_source_of_the_dataset():
    cases = [CASES[0].model_copy(update={"source": "north"}), CASES[1]]
    assert list(subgroups(cases, "site").values()) == ["north", UNKNOWN_GROUP]


def test_a_column_of_a_table_names_subgroups_by_patient(tmp_path):
    path = tmp_path / "scanners.csv"
    path.write_text("subject,scanner\np0,A\np1,B\n")
    assert list(subgroups(CASES, f"{path}:scanner").values()) == ["A", "B", UNKNOWN_GROUP]


def test_a_table_without_the_column_or_the_cases_is_rejected(tmp_path):
    path = tmp_path / "scanners.csv"
    path.write_text("subject,scanner\nother,A\n")
    with pytest.raises(UsageError, match="expected age, and volume or subject"):
        subgroups(CASES, f"{path}:age")
    with pytest.raises(UsageError, match="no row"):
        subgroups(CASES, f"{path}:scanner")
    with pytest.raises(UsageError, match="cannot be read"):
        subgroups(CASES, f"{tmp_path}/none.csv:scanner")


def test_a_field_that_the_dataset_does_not_record_is_rejected():
    with pytest.raises(UsageError, match=r"does not record it.*FILE\.csv:COLUMN"):
        subgroups(CASES, "scanner")


def test_tables_of_spreadsheets_are_read_or_named(dataset, tmp_path):
    path = tmp_path / "ages.csv"
    path.write_bytes("sep=;\r\npatient ; age ;Größe\r\nANN;63.5;2\r\n;7;\r\n".encode("cp1252"))
    found = with_targets(dataset, path, "age", home=tmp_path, log=lambda line: None)
    assert [row.target for row in found.volumes] == ["63.5", "63.5", None, None]
    path.write_bytes(b"PK\x03\x04" + b"\0" * 99)
    with pytest.raises(UsageError, match="expected CSV, got a spreadsheet: save it as CSV"):
        with_targets(dataset, path, "age", home=tmp_path, log=lambda line: None)
