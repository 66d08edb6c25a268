import pytest
import tiny

from medmim.errors import UsageError
from medmim.stages.evaluate.subgroups import UNKNOWN_GROUP, subgroups

CASES = [tiny.row(f"p{number}") for number in range(3)]


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
